// The API key: asked for when the service wants one, kept for this tab alone, sent as a header only.

const NAME = "gdsr.key";
const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
const reason = document.getElementById("key-reason");

let asking = null;
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

/** Ask for a key, once for all who need it; false if there is none to be had. */
export function askForKey(words, refused) {
  if (known && known !== refused) return Promise.resolve(true); // another request has asked already
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
        asking = null;
        resolve(usable);
      },
      { once: true },
    );
  });
  return asking;
}
