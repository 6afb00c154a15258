// "Removed. Undo": what was done last can be taken back for a while, by the button or by Ctrl Z.

const toast = document.getElementById("toast");
const UNDO = 6000;
let offer = null; // `{undo, settle, timer, latest}`

/** Say what was done. `undo()` takes it back; `settle()` is called when the time for that is over. */
export function offerUndo(words, undo, settle = () => {}) {
  settleNow();
  offer = { undo, settle, latest: true };
  toast.hidden = false;
  toast.firstElementChild.textContent = words;
  settleLater();
}

/** The offer stays while the pointer or the focus is on it. */
function settleLater() {
  offer.timer = setTimeout(() => (toast.matches(":hover, :focus-within") ? settleLater() : settleNow()), UNDO);
}

function settleNow() {
  if (!offer) return;
  const { settle } = ended();
  toast.hidden = true;
  settle();
}

function ended() {
  const it = offer;
  clearTimeout(it.timer);
  offer = null;
  return it;
}

function takeBack() {
  const { undo } = ended();
  undo();
  if (toast.contains(document.activeElement)) document.getElementById("stage").focus();
  toast.hidden = true;
}

/** Take back what is offered, unless something else was done since; whether it was. */
export function undoOffered() {
  if (!offer?.latest) return false;
  takeBack();
  return true;
}

/** Something was done that Ctrl Z takes back first. */
export function outdateOffer() {
  if (offer) offer.latest = false;
}

toast.querySelector("button").addEventListener("click", takeBack);
window.addEventListener("pagehide", settleNow);
