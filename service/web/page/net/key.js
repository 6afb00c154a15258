// The API key: asked for when the service wants one, kept for this tab alone, sent as a header only.

const NAME = "gdsr.key";
const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
const reason = document.getElementById("key-reason");

let asking = null;

export function key() {
  return sessionStorage.getItem(NAME);
}

/** Headers that say who asks. */
export function credentials() {
  const known = key();
  return known ? { Authorization: `Bearer ${known}` } : {};
}

/** Ask for a key, once for all who need it; false if there is none to be had. */
export function askForKey(words, refused) {
  if (key() && key() !== refused) return Promise.resolve(true); // another request has asked already
  asking ??= new Promise((resolve) => {
    sessionStorage.removeItem(NAME);
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
        if (usable) sessionStorage.setItem(NAME, given);
        asking = null;
        resolve(usable);
      },
      { once: true },
    );
  });
  return asking;
}
