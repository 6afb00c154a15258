// State that survives a reload: which jobs are ours, which of them is open, how they are set, what was
// painted, and the originals to compare with. Ids and settings are in localStorage, the open one in
// sessionStorage (of each tab), files and paint in IndexedDB; where a browser keeps none of them, the page
// works until it is closed.

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

/** Remember what has changed about a picture, or a new one, before that with the id `next` or last. */
export function remember(id, facts, next) {
  const list = remembered();
  const known = list.find((item) => item.id === id);
  const place = list.findIndex((item) => item.id === next);
  if (known) Object.assign(known, facts);
  else if (facts.name === undefined) return; // it is forgotten, by another tab perhaps
  else list.splice(place < 0 ? list.length : place, 0, { id, ...facts });
  for (const item of list.splice(MOST)) dropFiles(item.id);
  write(list);
}

/** Keep which picture is open; null for none that the service has. */
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
    // private browsing, or full: this tab goes on
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
