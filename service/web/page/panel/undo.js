// "Removed. Undo": the last action can be undone for a while, by the button or by Ctrl Z.

const toast = document.getElementById("toast");
const UNDO = 6000;
let offer = null; // `{undo, settle, timer, latest}`

/** Announce an action. `undo()` reverts it; `settle()` is called once that is no longer possible. */
export function offerUndo(words, undo, settle = () => {}) {
  settleNow();
  offer = { undo, settle, latest: true };
  toast.hidden = false;
  toast.firstElementChild.textContent = words;
  settleLater();
}

/** The offer stays visible while the pointer or the focus is on it. */
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

/** Undo the offered action, unless there was a later one; returns whether it did. */
export function undoOffered() {
  if (!offer?.latest) return false;
  takeBack();
  return true;
}

/** Note a later action, which Ctrl Z undoes first. */
export function outdateOffer() {
  if (offer) offer.latest = false;
}

toast.querySelector("button").addEventListener("click", takeBack);
window.addEventListener("pagehide", settleNow);
