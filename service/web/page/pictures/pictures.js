// The pictures of this page, from upload to removal. `pictures` has all of them, newest
// first.
//
// A picture has a `phase`: waiting, sending, refused (with `problem`), known (the service has it:
// `view`), expired, or lost (the service no longer has it).

import { Problem, request, upload } from "../net/api.js";
import { ended, follow, viewOf } from "../net/events.js";
import { onKey } from "../net/key.js";
import { bytes, megapixels, size } from "../words/numbers.js";
import { text } from "../words/text.js";
import { busy } from "./status.js";
import { forget, keepOriginal, keepPaint, openOnce, original, paintOf, remember, remembered } from "./store.js";
import { thumbnail } from "./thumbnails.js";

export const pictures = [];
/** Limits of the service, once it has sent them. */
export const site = { limits: null, models: [] };

let sending = Promise.resolve();
let tell = {};

/**
 * Set the callbacks: `added(picture, last)`, `changed(picture)`, `removed(picture)`,
 * `thumbnail(picture, canvas)`, `ended(picture)`. `choices()` gives the options of the next upload,
 * and `settings()` the initial settings of a new picture.
 */
export function onPictures(handlers) {
  tell = handlers;
}

function create(facts) {
  return { phase: "waiting", view: null, problem: null, map: null, paint: null, tradeOff: 0.5, stopping: new AbortController(), ...facts };
}

/** Add files; returns the first picture. */
export function take(files) {
  const fresh = [...files].map((file) => create({ file, name: file.name || "pasted.png", ...tell.settings() }));
  for (const picture of fresh.toReversed()) {
    pictures.unshift(picture);
    tell.added(picture);
  }
  for (const picture of fresh) {
    picture.previewed = preview(picture);
    begin(picture);
  }
  return fresh[0];
}

async function preview(picture) {
  const canvas = await thumbnail(picture);
  if (canvas) {
    picture.hasThumbnail = true;
    tell.thumbnail(picture, canvas);
    tell.changed(picture);
  }
}

/** Upload a picture once the earlier ones have been uploaded, and follow its job. */
function begin(picture) {
  picture.stopping = new AbortController();
  change(picture, { problem: null, view: null, phase: "waiting", cancelling: false });
  const { signal } = picture.stopping;
  const turn = sending.then(() => send(picture));
  sending = turn.catch(() => {});
  turn.then(() => watch(picture)).catch((failure) => signal.aborted || fail(picture, failure));
}

async function send(picture) {
  const { signal } = picture.stopping;
  await picture.previewed;
  signal.throwIfAborted();
  refuse(picture);
  const fields = { keep_branches: "true", trade_off: "0.5", format: "png", name: picture.name.slice(-255), ...tell.choices(picture) };
  const onSent = (sent) => change(picture, { phase: "sending", sent, problem: null });
  onSent(0);
  const view = await upload(picture.file, fields, { signal, onSent, onBusy: (problem) => change(picture, { phase: "waiting", problem }) });
  const { name, tradeOff, settings } = picture;
  const next = pictures.slice(pictures.indexOf(picture) + 1).find(({ id }) => id);
  keepOriginal(view.id, picture.file);
  if (picture.paint) keepPaint(view.id, picture.paint);
  remember(view.id, { name, tradeOff, settings }, next?.id); // last: beyond a maximum number, files are dropped
  change(picture, { phase: "known", id: view.id, ...heard(picture, view) });
}

/** Throw a Problem for a file that the service would reject, before it is uploaded. */
function refuse({ file, width, height }) {
  const { limits } = site;
  if (!file.size) throw new Problem({ title: text("fileEmpty"), status: 400 });
  if (!limits) return;
  if (width * height > limits.max_pixels) {
    const words = { size: `${size({ width, height })} (${megapixels(width * height)})`, limit: megapixels(limits.max_pixels) };
    throw new Problem({ title: text("tooLarge", words), status: 413, type: "image-too-large" });
  }
  if (file.size > limits.max_upload_bytes) {
    const words = { size: bytes(file.size), limit: bytes(limits.max_upload_bytes) };
    throw new Problem({ title: text("fileTooLarge", words), status: 413, type: "image-too-large" });
  }
}

/** Update a picture from a view of its job, with the times for an estimate. */
function heard(picture, view) {
  const facts = { view, heardAt: Date.now() };
  if (view.state === "running" && picture.view?.state !== "running") {
    Object.assign(facts, { runningAt: facts.heardAt, tilesAtStart: view.progress.tiles_done });
  }
  return facts;
}

async function watch(picture) {
  const last = await follow(picture.id, (view) => change(picture, heard(picture, view)), picture.stopping.signal);
  if (last === null) return change(picture, { phase: "lost" });
  if (last.result && new Date(last.result.expires_at) <= new Date(last.now)) return change(picture, { phase: "expired" });
  tell.ended(picture);
  if (!picture.hasThumbnail && last.result) await preview(picture);
}

function watchOrFail(picture) {
  const { signal } = picture.stopping;
  watch(picture).catch((failure) => signal.aborted || fail(picture, failure));
}

function fail(picture, failure) {
  if (failure.status === 404) return change(picture, { phase: "lost" });
  const problem = failure instanceof Problem ? failure : new Problem({ title: text("pageFault"), detail: String(failure) });
  change(picture, { phase: "refused", problem });
  tell.ended(picture);
}

function change(picture, facts) {
  Object.assign(picture, facts);
  tell.changed(picture);
}

/** Mark a picture as gone if the error says so. */
export function showGone(picture, { status }) {
  const phase = { 404: "lost", 410: "expired" }[status];
  if (phase) change(picture, { phase });
}

/** Cancel a picture in progress; one that was not uploaded yet is removed. */
export async function cancel(picture) {
  if (!picture.view || !busy(picture)) return remove(picture)();
  if (picture.cancelling) return; // a second request would erase the cancelled job
  change(picture, { cancelling: true });
  try {
    await request(`jobs/${picture.id}`, { method: "DELETE" });
  } catch (problem) {
    change(picture, { cancelling: false });
    throw problem;
  }
}

/** Remove a picture from the page; returns a function that erases it. `restore(picture)` undoes the removal. */
export function remove(picture) {
  picture.removed = true;
  picture.place = pictures.indexOf(picture);
  pictures.splice(picture.place, 1);
  tell.removed(picture);
  return () => {
    picture.stopping.abort();
    erase(picture.id);
  };
}

/** Erase the job, if there is one: the first request cancels a job in progress, the second erases it. */
function erase(id) {
  if (!id) return;
  forget(id);
  const ask = () => request(`jobs/${id}`, { method: "DELETE", keepalive: true });
  ask().then(({ status }) => status === 200 && ask()).catch(() => {}); // it may be erased already
}

/** Put a removed picture back in its position. */
export function restore(picture) {
  picture.removed = false;
  pictures.splice(picture.place, 0, picture);
  tell.added(picture);
  tell.changed(picture);
}

/** Enlarge a picture again: with another model, other options or another file, or after a failure. */
export function again(picture, file = picture.file) {
  picture.stopping.abort();
  erase(picture.id);
  picture.id = null;
  if (file !== picture.file) {
    Object.assign(picture, { file, width: undefined, height: undefined, map: null, paint: null, brush: null });
    picture.previewed = preview(picture);
  }
  begin(picture);
}

/** Retry a picture after a failure; a job that the service has is requested, not created again. */
export function retry(picture) {
  if (picture.phase !== "refused" || !picture.id) return again(picture);
  change(picture, { phase: "known", problem: null });
  watchOrFail(picture);
}

/** Retry all pictures that were rejected without a key, now that there is one. */
onKey(() => {
  for (const picture of pictures) if (picture.phase === "refused" && picture.problem.status === 401) retry(picture);
});

/** Restore the pictures from before the reload; `first` gets the one that was open, or the newest that the service has. */
export async function recall(first) {
  const found = remembered().map(({ id, name, tradeOff, settings }) => {
    const picture = create({ name, id, phase: "known", tradeOff: tradeOff ?? 0.5, settings: { ...tell.settings().settings, ...settings } });
    pictures.push(picture);
    tell.added(picture, true);
    return [picture, resume(picture)];
  });
  const open = openOnce();
  found.sort(([one], [other]) => (other.id === open) - (one.id === open));
  for (const [picture, there] of found) if ((await there) && !picture.removed) return first(picture);
}

async function resume(picture) {
  const { signal } = picture.stopping;
  try {
    [picture.file, picture.paint] = await Promise.all([original(picture.id), paintOf(picture.id)]);
    const view = await viewOf(picture.id, signal);
    change(picture, heard(picture, view));
    if (picture.file || ended(view)) preview(picture);
    watchOrFail(picture);
    return true;
  } catch (failure) {
    if (signal.aborted) return false; // it was removed
    if (failure.status !== 404) {
      fail(picture, failure);
      return true;
    }
    if (!picture.removed) remove(picture);
    forget(picture.id);
    return false;
  }
}
