// State that survives a reload: our jobs, the open one, their settings, the paint, and the originals to
// compare with. Ids and settings are in localStorage, the open one in sessionStorage (per tab), files
// and paint in IndexedDB. If the browser blocks storage, the page works until it is closed.

const LIST = "gdsr.pictures";
const OPEN = "gdsr.open";
const MOST = 200;
const STORES = ["originals", "paint"];

/** `{id, name, tradeOff, settings}` of each picture, in the order of the strip. */
export function remembered() {
  try {
    const list = JSON.parse(localStorage.getItem(LIST) ?? "[]");
    return list.filter((item) => /^\w+$/.test(item.id));
  } catch {
    return [];
  }
}

/** Store changes of a picture, or a new one, before that with the id `next` or at the end. */
export function remember(id, facts, next) {
  const list = remembered();
  const known = list.find((item) => item.id === id);
  const place = list.findIndex((item) => item.id === next);
  if (known) Object.assign(known, facts);
  else if (facts.name === undefined) return; // it was removed, perhaps by another tab
  else list.splice(place < 0 ? list.length : place, 0, { id, ...facts });
  for (const item of list.splice(MOST)) dropFiles(item.id);
  write(list);
}

/** Store which picture is open; null for one that the service does not have. */
export function keepOpen(id) {
  try {
    sessionStorage.setItem(OPEN, id ?? "");
  } catch {
    // private browsing
  }
}

/** The id of the picture that was open before the reload, if any. */
export function openOnce() {
  try {
    return sessionStorage.getItem(OPEN);
  } catch {
    return null;
  }
}

export function forget(id) {
  write(remembered().filter((item) => item.id !== id));
  dropFiles(id);
}

export const keepOriginal = (id, file) => ask("originals", "readwrite", (files) => files.put(file, id));
export const original = (id) => ask("originals", "readonly", (files) => files.get(id));
export const keepPaint = (id, paint) => ask("paint", "readwrite", (files) => files.put(paint, id));
export const paintOf = (id) => ask("paint", "readonly", (files) => files.get(id));

function dropFiles(id) {
  for (const store of STORES) ask(store, "readwrite", (files) => files.delete(id));
}

function write(list) {
  try {
    localStorage.setItem(LIST, JSON.stringify(list));
  } catch {
    // private browsing, or storage is full: this tab keeps working
  }
}

function ask(store, mode, what) {
  return new Promise((resolve) => {
    const nothing = () => resolve(undefined);
    try {
      const opening = indexedDB.open("gdsr", 2);
      opening.onupgradeneeded = () => {
        for (const name of STORES) {
          if (!opening.result.objectStoreNames.contains(name)) opening.result.createObjectStore(name);
        }
      };
      opening.onerror = opening.onblocked = nothing;
      opening.onsuccess = () => {
        const database = opening.result;
        const request = what(database.transaction(store, mode).objectStore(store));
        request.onsuccess = () => resolve(request.result);
        request.onerror = nothing;
        request.transaction.oncomplete = () => database.close();
        request.transaction.onabort = nothing;
      };
    } catch {
      nothing();
    }
  });
}
