// Word of finished pictures for somebody who looks elsewhere: in the title, and as a notification if
// the person wants that.

import { text } from "../words/text.js";

const box = document.getElementById("notify");
const TITLE = "GDSR";

box.closest("label").hidden = !("Notification" in window);
box.checked = "Notification" in window && Notification.permission === "granted" && localStorage.getItem("gdsr.notify") === "yes";
box.addEventListener("change", async () => {
  if (box.checked) box.checked = (await Notification.requestPermission()) === "granted";
  localStorage.setItem("gdsr.notify", box.checked ? "yes" : "no");
});

export function showTitle(picture, { badge } = {}) {
  document.title = picture ? `${badge} ${picture.name} · ${TITLE}` : TITLE;
}

export function notifyEnded(picture, words) {
  if (!box.checked || !document.hidden) return;
  const body = picture.view?.state === "succeeded" ? text("notifyDone", picture) : `${picture.name}: ${words}`;
  try {
    new Notification(TITLE, { body, tag: picture.id });
  } catch {
    // phones allow it to service workers only
  }
}
