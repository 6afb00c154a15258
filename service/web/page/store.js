// What a reload must not lose: which jobs are ours, and the originals to compare with. Ids and
// slider positions are in localStorage, files in IndexedDB; where a browser keeps neither, the page
// works until it is closed.

const LIST = "gdsr.pictures";
const MOST = 200;

/** `{id, name, tradeOff}` of each picture, newest first. */
export function remembered() {
  try {
    const list = JSON.parse(localStorage.getItem(LIST) ?? "[]");
    return list.filter((item) => /^\w+$/.test(item.id));
  } catch {
    return [];
  }
}

/** Add a picture, or what has changed about it. */
export function remember(id, facts) {
  const list = remembered();
  const known = list.find((item) => item.id === id);
  if (known) Object.assign(known, facts);
  else list.unshift({ id, ...facts });
  for (const item of list.splice(MOST)) dropOriginal(item.id);
  write(list);
}

export function forget(id) {
  write(remembered().filter((item) => item.id !== id));
  dropOriginal(id);
}

export async function keepOriginal(id, file) {
  await ask("readwrite", (files) => files.put(file, id));
}

export async function original(id) {
  return ask("readonly", (files) => files.get(id));
}

function dropOriginal(id) {
  ask("readwrite", (files) => files.delete(id));
}

function write(list) {
  try {
    localStorage.setItem(LIST, JSON.stringify(list));
  } catch {
    // private browsing, or full: this tab goes on
  }
}

function ask(mode, what) {
  return new Promise((resolve) => {
    const nothing = () => resolve(undefined);
    try {
      const opening = indexedDB.open("gdsr", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("originals");
      opening.onerror = opening.onblocked = nothing;
      opening.onsuccess = () => {
        const database = opening.result;
        const request = what(database.transaction("originals", mode).objectStore("originals"));
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
