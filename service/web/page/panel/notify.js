// Word of finished pictures for somebody who looks elsewhere: in the title, and as a notification if
// the person wants that.

import { text } from "../words/text.js";

const box = document.getElementById("notify");
const TITLE = "GDSR";

/** Android has them for service workers only. */
const able = "Notification" in window && !/Android/.test(navigator.userAgent);

box.closest("label").hidden = !able;
box.checked = able && Notification.permission === "granted" && wanted();
box.addEventListener("change", async () => {
  if (box.checked) box.checked = (await Notification.requestPermission()) === "granted";
  try {
    localStorage.setItem("gdsr.notify", box.checked ? "yes" : "no");
  } catch {
    // the browser keeps nothing
  }
});

function wanted() {
  try {
    return localStorage.getItem("gdsr.notify") === "yes";
  } catch {
    return false;
  }
}

export function showTitle(picture, { badge } = {}) {
  document.title = picture ? `${badge} ${picture.name} · ${TITLE}` : TITLE;
}

export function notifyEnded(picture, words) {
  if (!box.checked || !document.hidden) return;
  const body = picture.view?.state === "succeeded" ? text("notifyDone", picture) : `${picture.name}: ${words}`;
  try {
    new Notification(TITLE, { body, tag: picture.id });
  } catch {
    // Android, in the guise of a desktop
  }
}
