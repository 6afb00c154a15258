// Notifications of finished pictures while the page is in the background: in the title and, if enabled,
// by the browser.

import { text } from "../words/text.js";

const box = document.getElementById("notify");
const TITLE = "GDSR";

/** Android supports notifications only in service workers. */
const able = "Notification" in window && !/Android/.test(navigator.userAgent);

box.closest("label").hidden = !able;
box.checked = able && Notification.permission === "granted" && wanted();
box.addEventListener("change", async () => {
  if (box.checked) box.checked = (await Notification.requestPermission()) === "granted";
  try {
    localStorage.setItem("gdsr.notify", box.checked ? "yes" : "no");
  } catch {
    // storage is blocked
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
    // Android that claims to be a desktop
  }
}
