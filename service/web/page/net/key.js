// The API key: asked for when the service wants one, kept for this tab alone, sent as a header only.

const NAME = "gdsr.key";
const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
const reason = document.getElementById("key-reason");

let asking = null;
let declined = false;
let tellOf = () => {};
let known = keptKey();

function keptKey() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null; // the browser keeps nothing
  }
}

function keepKey(given) {
  known = given;
  try {
    if (given) sessionStorage.setItem(NAME, given);
    else sessionStorage.removeItem(NAME);
  } catch {
    // the key lasts until a reload
  }
}

export const key = () => known;

/** Headers that say who asks. */
export function credentials() {
  return known ? { Authorization: `Bearer ${known}` } : {};
}

/** Say who is told when a key was given. */
export function onKey(tell) {
  tellOf = tell;
}

/** After "Not now", background requests do not ask again; the next action of the person does. */
for (const kind of ["pointerdown", "keydown", "change", "paste", "drop"]) {
  document.addEventListener(kind, () => (declined = false), true);
}

/** Ask for a key, once for all who need it; false if there is none to be had. */
export function askForKey(words, refused) {
  if (known && known !== refused) return Promise.resolve(true); // another request has asked already
  if (declined && !asking) return Promise.resolve(false);
  asking ??= new Promise((resolve) => {
    keepKey(null);
    reason.textContent = words;
    field.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    field.focus();
    dialog.addEventListener(
      "close",
      () => {
        const given = field.value.trim();
        field.value = "";
        const usable = dialog.returnValue === "use" && /^[\x21-\x7e]+$/.test(given);
        if (usable) keepKey(given);
        declined = !usable;
        asking = null;
        resolve(usable);
        if (usable) tellOf();
      },
      { once: true },
    );
  });
  return asking;
}
