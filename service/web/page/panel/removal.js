// "Removed. Undo": a removed picture is erased when the time to undo is over.

import { remove, restore } from "../pictures/pictures.js";

const toast = document.getElementById("toast");
const UNDO = 6000;
let pending = null;

/** Remove a picture; `back(picture)` is told when that is undone. */
export function removeWithUndo(picture, back) {
  eraseNow();
  pending = { picture, back, erase: remove(picture), timer: setTimeout(eraseNow, UNDO) };
  toast.hidden = false;
}

function eraseNow() {
  if (!pending) return;
  clearTimeout(pending.timer);
  const { erase } = pending;
  pending = null;
  toast.hidden = true;
  erase();
}

toast.querySelector("button").addEventListener("click", () => {
  if (!pending) return;
  clearTimeout(pending.timer);
  const { picture, back } = pending;
  pending = null;
  toast.hidden = true;
  restore(picture);
  back(picture);
  picture.card.querySelector(".open").focus();
});
window.addEventListener("pagehide", eraseNow);
