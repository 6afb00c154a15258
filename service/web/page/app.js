// The page: wires pictures, stage and panels together. `opened` is the picture on the stage.

import { received, request } from "./net/api.js";
import { isAway, onConnection, tryNow } from "./net/connection.js";
import { createPainting } from "./panel/brush.js";
import { onSlider, showInvented, showTradeOff } from "./panel/detail.js";
import { createExport, usualSettings } from "./panel/export.js";
import { showFacts } from "./panel/facts.js";
import { addCard, markOpen, removeCard, setThumbnail, updateCard } from "./panel/filmstrip.js";
import { showMessage } from "./panel/message.js";
import { chosenModel, listModels, onModel, showModel } from "./panel/models.js";
import { notifyEnded, showTitle } from "./panel/notify.js";
import { listenToKeys } from "./panel/shortcuts.js";
import { showTab } from "./panel/tabs.js";
import { offerUndo, outdateOffer, undoOffered } from "./panel/undo.js";
import { acceptFor, onFiles } from "./pictures/intake.js";
import { again, cancel, onPictures, pictures, recall, remove, restore, retry, showGone, site, take } from "./pictures/pictures.js";
import { cropped, halved } from "./pictures/smaller.js";
import { busy, isReady, statusOf } from "./pictures/status.js";
import { keepOpen, remember } from "./pictures/store.js";
import { listen } from "./stage/gestures.js";
import { createViewer } from "./stage/viewer.js";
import { bytes, megapixels, percent, size, span } from "./words/numbers.js";
import { text, translate } from "./words/text.js";

const at = (id) => document.getElementById(id);
const FORMATS = { jpeg: "JPEG", png: "PNG", webp: "WebP", tiff: "TIFF", bmp: "BMP", avif: "AVIF", heic: "HEIC", jxl: "JPEG XL", gif: "GIF" };
const TICK = 1000;
const NO_MODELS = 10_000; // milliseconds between two requests for the models while no worker runs

translate();
translate(at("card").content);

let opened = null;
let learning = null;
let fetching = null; // `{words, done}` while a result is loading, or `{words, actions}` if it failed

const viewer = createViewer({
  zoom({ level, fit }) {
    at("zoom").textContent = percent(level);
    for (const button of document.querySelectorAll("[data-level]")) {
      const pressed = button.dataset.level === "fit" ? fit : !fit && Number(button.dataset.level) === level;
      button.setAttribute("aria-pressed", String(pressed));
    }
    painting.hover();
  },
  loading(share) {
    fetching = share === null ? null : { words: text("fetchingAt", { percent: percent(share) }), done: share };
    showState();
  },
  ready() {
    painting.prepare(opened);
    viewer.setMap(opened.map);
    setReady(true);
  },
  failed(problem) {
    fetching = { words: problem.message, actions: ["fetch"] };
    showGone(opened, problem);
    showState();
  },
  invented: showInvented,
  measured: () => painting.fillWaiting(),
  cardLost: () => showNotice(text("withoutCard")),
});

const painting = createPainting(viewer, () => opened, (picture) => {
  picture.painted = (picture.painted ?? 0) + 1; // so that an earlier file is not taken for the current one
  outdateOffer();
  exporting.show();
});
const exporting = createExport(() => opened, enlargeAgain, showSettings, showNotice);

onPictures({
  choices: ({ settings, truncated }) => ({
    metadata: settings.metadata, icc: settings.icc, ...(truncated && { truncated }), ...(chosenModel() && { model: chosenModel() }),
  }),
  settings: () => ({ settings: usualSettings() }),
  added(picture, last) {
    addCard(picture, { open, remove: discard }, last);
    updateCard(picture, site.models);
    showWhatIsThere();
  },
  changed(picture) {
    updateCard(picture, site.models);
    if (picture !== opened) return;
    if (!isReady(picture)) setReady(false);
    showState();
  },
  removed(picture) {
    removeCard(picture);
    showWhatIsThere();
    if (picture !== opened) return;
    if (pictures.length) open(pictures[Math.min(picture.place ?? 0, pictures.length - 1)]);
    else close();
  },
  thumbnail: setThumbnail,
  ended(picture) {
    if (picture.removed) return;
    const { words } = statusOf(picture, site.models);
    announce(`${picture.name}: ${words}`);
    notifyEnded(picture, words);
    exporting.showAll();
    if (!isReady(picture)) learn(); // its model may have been removed
    if (picture !== opened) return;
    exporting.show();
    if (isReady(picture)) {
      fetching = { words: text("fetching"), done: null };
      showState();
    }
    viewer.showResult();
  },
});

function open(picture) {
  opened = picture;
  fetching = isReady(picture) ? { words: text("fetching"), done: null } : null;
  markOpen(picture);
  showTradeOff(picture.tradeOff);
  setReady(false);
  showInvented(null);
  showState();
  viewer.open(picture);
}

function close() {
  opened = null;
  keepOpen(null);
  viewer.open(null);
  setReady(false);
  showMessage("");
  showTitle(null);
  showFacts(null);
  showModel(null);
  at("shown-name").textContent = at("shown-facts").textContent = "";
  if (!document.activeElement.checkVisibility()) at("files").focus(); // the stage is hidden
}

function discard(picture) {
  if (picture.removed) return; // the removal was requested twice
  const erase = remove(picture);
  const putBack = () => {
    restore(picture);
    open(picture);
    picture.card.querySelector(".open").focus();
  };
  offerUndo(text("removed"), putBack, erase);
}

function enlargeAgain(picture, make = again) {
  make(picture);
  if (picture === opened) open(picture);
}

/** Show settings of the open picture that were changed outside its panels. */
function showSettings() {
  showTradeOff(opened.tradeOff);
  viewer.setTradeOff(opened.tradeOff);
  exporting.show();
}

/** Enlarge the open picture again from a smaller file. */
async function smaller(make) {
  const picture = opened;
  at("notice").hidden = true; // an earlier attempt may have failed
  try {
    const file = await make(picture.file);
    if (picture.removed) return;
    again(picture, file);
    if (picture === opened) open(picture);
  } catch (problem) {
    showNotice(problem.message);
  }
}

const actions = {
  cancel: () => cancel(opened).catch(({ message }) => showNotice(message)),
  remove: () => discard(opened),
  again: () => enlargeAgain(opened, retry),
  fetch: () => open(opened),
  fill() {
    opened.truncated = "fill";
    enlargeAgain(opened);
  },
  halve: () => smaller((file) => halved(file, site.limits.max_pixels)),
  crop() {
    const { left, top, right, bottom } = viewer.viewed();
    const shown = viewer.size(); // of a smaller copy, if the photograph is too large for the painter
    const across = (x) => (x * opened.width) / shown.width;
    const down = (y) => (y * opened.height) / shown.height;
    const part = {
      left: Math.floor(across(left)), top: Math.floor(down(top)), right: Math.ceil(across(right)), bottom: Math.ceil(down(bottom)),
    };
    if ((part.right - part.left) * (part.bottom - part.top) > site.limits.max_pixels) return showNotice(text("cropZoom"));
    return smaller((file) => cropped(file, part));
  },
};

/** True if there is a result to edit. */
function setReady(there) {
  for (const control of document.querySelectorAll("#inspector [data-needs-result]")) control.disabled = !there;
  painting.show();
  exporting.show();
}

function showState() {
  if (!opened) return;
  keepOpen(opened.id);
  const status = statusOf(opened, site.models);
  const ready = isReady(opened);
  if (!ready) showMessage(status.words, { actions: status.actions, done: busy(opened) ? status.done : undefined }, actions);
  else if (fetching && !viewer.hasResult()) showMessage(...(isAway() && !fetching.actions ? [text("resultLater")] : [fetching.words, fetching, actions]));
  else showMessage("");
  showTitle(opened, status);
  const image = opened.width ? opened : opened.view?.image;
  at("shown-name").textContent = opened.name;
  const made = opened.view?.result;
  at("shown-facts").textContent = !image ? "" : !made ? size(image) : `${size(turned(image, made))} → ${size(made)}`;
  showFacts(opened);
  showModel(opened);
}

/** The size of a photograph as displayed; a header does not contain the orientation. */
function turned({ width, height }, made) {
  return width < height === made.width < made.height ? { width, height } : { width: height, height: width };
}

function showWhatIsThere() {
  const some = pictures.length > 0;
  document.body.classList.toggle("busy", some);
  at(some ? "model-slot" : "first-model-slot").append(at("model-choice"));
  exporting.showAll();
}

/** Announce to screen readers. */
function announce(words) {
  at("announcer").textContent = words;
}

/** Show a notice until it is closed. */
function showNotice(words) {
  announce(words);
  at("notice-words").textContent = words;
  at("notice").hidden = false;
}

// Start-up

onFiles((files) => (files.length ? open(take(files)) : showNotice(text("noPhotos"))));
at("notice").querySelector("button").addEventListener("click", () => (at("notice").hidden = true));

onSlider((tradeOff) => {
  opened.tradeOff = tradeOff;
  viewer.setTradeOff(tradeOff);
  if (opened.id) remember(opened.id, { tradeOff });
  exporting.show();
});
onModel(() => showModel(opened), () => enlargeAgain(opened));

function setGuesses(wanted) {
  at("show-guesses").setAttribute("aria-pressed", String(wanted));
  viewer.setGuesses(wanted);
}
function setSide(wanted) {
  at("side").setAttribute("aria-pressed", String(wanted));
  viewer.setSide(wanted);
}
const pressed = (id) => at(id).getAttribute("aria-pressed") === "true";
at("show-guesses").addEventListener("click", () => setGuesses(!pressed("show-guesses")));
at("side").addEventListener("click", () => setSide(!pressed("side")));
for (const button of document.querySelectorAll("[data-level]")) {
  const { level } = button.dataset;
  button.addEventListener("click", () => viewer.setLevel(Number(level) || level));
}
at("export-button").addEventListener("click", () => {
  showTab("export");
  at("export-panel").scrollIntoView({ block: "nearest" });
  at("download").focus();
});

listen(at("stage"), {
  move: viewer.move,
  zoom: viewer.zoomBy,
  toggle: (x, y) => viewer.setLevel("toggle", x, y),
  tap: (x) => viewer.divideAt(x),
  divide: (x) => viewer.divideAt(x),
  hold: viewer.setHeld,
  canMove: viewer.canMove,
  paints: painting.paints,
  stroke: painting.stroke,
  hover: painting.hover,
});
listenToKeys({
  level: viewer.setLevel,
  side: () => setSide(!pressed("side")),
  guesses: () => setGuesses(!pressed("show-guesses")),
  brush: painting.toggle,
  swap: painting.swap,
  erase: () => painting.choose("erase"),
  brushSize: painting.resize,
  undo: () => undoOffered() || painting.undo("undo"),
  redo: () => painting.undo("redo"),
  save: exporting.saveShown,
  next(step) {
    const next = pictures[pictures.indexOf(opened) + step];
    if (next) open(next);
  },
  remove: () => opened && discard(opened),
  hold: viewer.setHeld,
  move: (dx, dy) => (painting.paints() ? painting.moveRing(-dx / 4, -dy / 4) : viewer.move(dx, dy)),
  paint: () => painting.paints() && painting.dab(),
});

onConnection((lost) => {
  const words = lost ? text(navigator.onLine ? "unreachable" : "offline", lost) : "";
  if (lost && at("connection").hidden) announce(words); // once: the countdown would be read out second by second
  at("connection").hidden = !lost;
  at("connection").firstElementChild.textContent = words;
  for (const picture of pictures) updateCard(picture, site.models);
  showState();
  viewer.showConnection();
  exporting.showConnection();
  if (!lost) learn();
});
at("connection").querySelector("button").addEventListener("click", tryNow);

/** Pictures that were not sent yet exist only here: the browser asks before it leaves the page. */
window.addEventListener("beforeunload", (event) => {
  if (pictures.some(({ phase }) => phase === "waiting" || phase === "sending")) event.preventDefault();
});

setInterval(() => {
  for (const picture of pictures) if (busy(picture)) updateCard(picture, site.models);
  if (opened && busy(opened)) showState();
}, TICK);

/** Request limits and models, which may have changed during an outage. */
function learn(tell = () => {}) {
  learning ??= ask().catch(tell).finally(() => (learning = null));
}

async function ask() {
  const told = (path) => received(() => request(path), (answer) => answer.json());
  const limits = await told("limits");
  if (JSON.stringify(limits) !== JSON.stringify(site.limits)) showLimits(limits);
  site.models = await told("models");
  listModels();
  showModel(opened);
}

function showLimits(limits) {
  site.limits = limits;
  const formats = limits.input_formats.map((name) => FORMATS[name] ?? name.toUpperCase()).join(", ");
  at("taken").textContent = text("takes", { formats, pixels: megapixels(limits.max_pixels), size: bytes(limits.max_upload_bytes) });
  at("kept").textContent = text("private", { span: span(limits.result_ttl_seconds) });
  at("files").accept = acceptFor(limits.input_formats);
  exporting.setFormats(limits.output_formats);
  exporting.show();
}

setReady(false);
showInvented(null);
learn(({ message }) => showNotice(message));
window.addEventListener("focus", () => learn());
setInterval(() => site.models.length || learn(), NO_MODELS);
recall((picture) => opened ?? open(picture));
