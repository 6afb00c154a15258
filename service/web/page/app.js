// The page: pictures come in, become jobs, and are looked at. The state of all is in `pictures`.
//
// A picture has a `phase`: waiting, sending, refused (with `problem`), known (the service has it:
// `view`), expired, or lost (the service no longer has it).

import { Problem, request, upload } from "./api.js";
import { addCard, busy, markOpen, removeCard, setThumbnail, updateCard } from "./cards.js";
import { onConnection, tryNow } from "./connection.js";
import { follow } from "./events.js";
import { onFiles } from "./intake.js";
import { decoded } from "./layers.js";
import { enable, onDownload, onSlider, setFormats, showFacts, showPosition } from "./panel.js";
import { result } from "./results.js";
import { forget, keepOriginal, original, remember, remembered } from "./store.js";
import { createViewer } from "./viewer.js";
import { bytes, megapixels, span, state } from "./words.js";

const at = (id) => document.getElementById(id);
const THUMBNAIL = 480;
const SHOWN = { jpeg: "JPEG", png: "PNG", webp: "WebP", tiff: "TIFF", bmp: "BMP", avif: "AVIF", heic: "HEIC", jxl: "JPEG XL" };

const pictures = new Set();
let opened = null;
let limits = null;
let models = [];
let sending = Promise.resolve();
let previewing = Promise.resolve();

const viewer = createViewer({
  zoom({ level, fit }) {
    at("zoom").textContent = `${+(100 * level).toFixed(level < 0.1 ? 1 : 0)} %`;
    at("zoom-fit").setAttribute("aria-pressed", String(fit));
    at("zoom-real").setAttribute("aria-pressed", String(level === 1 && !fit));
  },
  loading(sums) {
    if (sums === null) {
      enable(true);
      return tellWork("");
    }
    const all = Object.values(sums).reduce((sum, { all }) => sum + all, 0);
    const got = Object.values(sums).reduce((sum, { got }) => sum + got, 0);
    tellWork(all ? `Fetching the result, ${Math.floor((100 * got) / all)} %` : "Fetching the result");
  },
  failed(problem) {
    if (problem.status === 410 && opened) {
      opened.phase = "expired";
      opened.problem = problem;
      updateCard(opened);
    }
    tellWork(problem.detail || problem.message);
  },
});

// Pictures come in

function take(files) {
  const fresh = [...files].map((file) => ({ file, name: file.name || "pasted picture", phase: "waiting", sent: 0, tradeOff: 0.5 }));
  for (const picture of fresh.toReversed()) {
    pictures.add(picture);
    addCard(picture, { open, stop, again });
  }
  for (const picture of fresh) preview(picture);
  for (const picture of fresh) begin(picture);
  if (fresh.length) open(fresh[0]);
}

/** Send a picture when those before it have been sent, and follow its job. */
function begin(picture) {
  picture.stopping = new AbortController();
  picture.problem = null;
  picture.view = null;
  picture.phase = "waiting";
  const turn = sending.then(() => send(picture));
  sending = turn.catch(() => {});
  return turn.then(() => (picture.phase === "known" ? watch(picture) : undefined)).catch((failure) => fail(picture, failure));
}

async function send(picture) {
  const { signal } = picture.stopping;
  signal.throwIfAborted();
  if (limits && picture.file.size > limits.max_upload_bytes) {
    throw new Problem({
      title: "The upload is too large",
      detail: `the file has ${bytes(picture.file.size)}; the limit is ${bytes(limits.max_upload_bytes)}`,
    });
  }
  change(picture, { phase: "sending", sent: 0 });
  const fields = { keep_branches: "true", trade_off: "0.5", format: "png", name: picture.name.slice(-255) };
  if (at("model").value) fields.model = at("model").value;
  const view = await upload(picture.file, fields, { signal, onSent: (sent) => change(picture, { sent }) });
  remember(view.id, { name: picture.name, tradeOff: picture.tradeOff });
  keepOriginal(view.id, picture.file);
  change(picture, { phase: "known", view, id: view.id });
}

async function watch(picture) {
  const { signal } = picture.stopping;
  const last = await follow(picture.id, (view) => change(picture, { view }), signal);
  if (last === null) return change(picture, { phase: "lost" });
  const over = last.result && new Date(last.result.expires_at) <= new Date();
  if (over) return change(picture, { phase: "expired" });
  announce(`${picture.name}: ${state(picture)}`);
  if (picture === opened) await viewer.showResult();
  if (!picture.hasThumbnail && last.result) await preview(picture);
}

function fail(picture, failure) {
  if (picture.stopping.signal.aborted) return;
  if (failure.status === 404) return change(picture, { phase: "lost" });
  const problem = failure instanceof Problem ? failure : new Problem({ title: "Error on this page", detail: String(failure) });
  change(picture, { phase: "refused", problem });
  announce(`${picture.name}: ${problem.title}`);
}

function change(picture, facts) {
  Object.assign(picture, facts);
  if (!pictures.has(picture)) return;
  updateCard(picture);
  if (picture === opened) showState();
}

/** Make its thumbnail when those before it are made: each is decoded in full for a moment. */
function preview(picture) {
  previewing = previewing.then(() => showPreview(picture)).catch(() => {});
  return previewing;
}

/** The thumbnail: of the original, or where the browser cannot read it, of the result. */
async function showPreview(picture) {
  if (!pictures.has(picture)) return;
  let bitmap = picture.file && (await decoded(picture.file, Infinity));
  if (bitmap) {
    Object.assign(picture, { width: bitmap.width, height: bitmap.height });
  } else if (picture.view?.result) {
    const answer = await result(picture.id, { output: "psnr", width: THUMBNAIL, height: THUMBNAIL, format: "png" });
    bitmap = await createImageBitmap(await answer.blob());
  }
  if (!bitmap) return;
  const factor = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
  const resizeWidth = Math.max(1, Math.round(bitmap.width * factor));
  const small = await createImageBitmap(bitmap, { resizeWidth, resizeQuality: "high" });
  bitmap.close();
  picture.hasThumbnail = true;
  setThumbnail(picture, small);
  updateCard(picture);
}

// What can be done with one

function open(picture) {
  opened = picture;
  markOpen(picture);
  at("viewer").hidden = false;
  showPosition(picture.tradeOff);
  enable(false);
  showState();
  viewer.open(picture);
}

/** Cancel what is under way, remove what is not. */
async function stop(picture) {
  const { id, view } = picture;
  if (busy(picture) && view) {
    await request(`jobs/${id}`, { method: "DELETE" }).catch((problem) => tellWork(problem.message));
    return;
  }
  picture.stopping?.abort();
  pictures.delete(picture);
  removeCard(picture);
  if (id) {
    forget(id);
    request(`jobs/${id}`, { method: "DELETE" }).catch(() => {}); // it may be gone already
  }
  if (picture !== opened) return;
  const [next] = pictures;
  if (next) open(next);
  else close();
}

function close() {
  opened = null;
  at("viewer").hidden = true;
}

function again(picture) {
  if (picture.id) forget(picture.id);
  picture.id = null;
  begin(picture);
  updateCard(picture);
  if (picture === opened) open(picture);
}

// What is said

function showState() {
  const { phase, view } = opened;
  const ready = phase === "known" && view?.state === "succeeded";
  const reason = opened.problem?.detail ?? view?.failure?.detail;
  if (!ready) tellWork(reason ? `${state(opened)}: ${reason}` : state(opened));
  showFacts(opened, models);
}

function tellWork(words) {
  at("working").textContent = words;
  at("working").hidden = !words;
}

function announce(words) {
  at("announcer").textContent = words;
}

// The page comes to life

onFiles(take);

onSlider((tradeOff) => {
  opened.tradeOff = tradeOff;
  viewer.setTradeOff(tradeOff);
});
at("trade-off").addEventListener("change", () => {
  if (opened.id) remember(opened.id, { tradeOff: opened.tradeOff });
});
for (const [id, level] of [["zoom-fit", "fit"], ["zoom-real", "real"], ["zoom-in", "in"], ["zoom-out", "out"]]) {
  at(id).addEventListener("click", () => viewer.setLevel(level));
}
at("mask").addEventListener("click", async () => {
  const wanted = at("mask").getAttribute("aria-pressed") !== "true";
  at("mask").setAttribute("aria-pressed", String(wanted));
  at("legend").hidden = !wanted;
  try {
    await viewer.showMask(wanted);
    tellWork("");
  } catch (problem) {
    at("mask").setAttribute("aria-pressed", "false");
    at("legend").hidden = true;
    await viewer.showMask(false);
    tellWork(problem.detail || problem.message);
  }
});
onDownload(() => opened);

onConnection((lost) => {
  at("connection").hidden = !lost;
  if (lost) {
    at("connection").firstElementChild.textContent = `The service cannot be reached. Trying again in ${lost.seconds} s; nothing is lost.`;
  }
});
at("connection").querySelector("button").addEventListener("click", tryNow);

async function learn() {
  limits = await (await request("limits")).json();
  const formats = limits.input_formats.map((name) => SHOWN[name] ?? name.toUpperCase());
  at("taken").textContent = `${formats.join(", ")}; up to ${megapixels(limits.max_pixels)} and ${bytes(limits.max_upload_bytes)} each`;
  at("kept").textContent = `The service keeps a result for ${span(limits.result_ttl_seconds)}, then deletes it.`;
  at("files").accept = limits.input_formats.map((name) => `image/${name}`).join();
  setFormats(limits.output_formats);
  models = await (await request("models")).json();
  at("model").replaceChildren(...models.map(({ name, default: usual }) => new Option(name, name, usual, usual)));
  at("choose-model").hidden = models.length < 2;
  if (opened) showState();
}

/** The pictures of before the reload, oldest last. */
async function restore() {
  for (const { id, name, tradeOff } of remembered()) {
    const picture = { name, tradeOff: tradeOff ?? 0.5, phase: "known", view: null, sent: 1, stopping: new AbortController(), id };
    pictures.add(picture);
    addCard(picture, { open, stop, again }, { last: true });
    picture.file = await original(id);
    preview(picture);
    resume(picture, id);
  }
}

async function resume(picture, id) {
  try {
    picture.view = await (await request(`jobs/${id}`)).json();
    change(picture, {});
    if (!opened) open(picture);
    await watch(picture);
  } catch (failure) {
    if (failure.status !== 404) return fail(picture, failure);
    pictures.delete(picture);
    removeCard(picture);
    forget(id);
  }
}

enable(false);
learn().catch((problem) => tellWork(problem.message));
restore();
