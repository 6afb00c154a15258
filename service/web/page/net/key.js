// The API key: requested when the service needs one, kept for this tab only, sent only as a header.

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
    return null; // storage is blocked
  }
}

function keepKey(given) {
  known = given;
  try {
    if (given) sessionStorage.setItem(NAME, given);
    else sessionStorage.removeItem(NAME);
  } catch {
    // storage is blocked: the key lasts until a reload
  }
}

export const key = () => known;

/** Authentication headers. */
export function credentials() {
  return known ? { Authorization: `Bearer ${known}` } : {};
}

/** Set the callback for a new key. */
export function onKey(tell) {
  tellOf = tell;
}

/** After "Not now" background requests do not ask again, but the next action of the user does. */
for (const kind of ["pointerdown", "keydown", "change", "paste", "drop"]) {
  document.addEventListener(kind, () => (declined = false), true);
}

/** Request a key, once for all callers; resolves with false if the user gives none. */
export function askForKey(words, refused) {
  if (known && known !== refused) return Promise.resolve(true); // another request has obtained one
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
