// The stage: shows part of a picture at a zoom, beside its original. At 1:1 a pixel of the result is a
// pixel of the screen.

import { isEmpty, setLevels } from "../brush/map.js";
import { isAway } from "../net/connection.js";
import { percent } from "../words/numbers.js";
import { text } from "../words/text.js";
import { BLOCK, blocksIn, calibrate, drawDetail, inventedShare, measureDetail } from "./detail.js";
import { listenToDivider } from "./gestures.js";
import { branches, crop, decoded } from "./layers.js";
import { painter } from "./painter.js";

const LEVELS = [0.125, 0.25, 0.5, 1, 2, 4, 8];
const MOST = 8;
/** Milliseconds without a change of the view after which all pixels are loaded. */
const STILL = 250;
const MOST_CROP_PIXELS = 16e6;

/**
 * A viewer on the page's stage. `open(picture)` shows its original, and its result if there is one;
 * `showResult` loads a result that was finished later. Callbacks: `on.zoom({level, fit})`, `on.loading`
 * with the loaded share (null: all), `on.ready` for a shown result, `on.failed` with an error,
 * `on.invented` with the invented share of the detail in view (null: unknown), `on.measured` once the
 * colours are measured, and `on.cardLost` for a lost graphics card.
 */
export function createViewer(on) {
  const stage = document.getElementById("stage");
  const divider = document.getElementById("divider");
  const previewNote = document.getElementById("preview");
  const overlay = document.getElementById("guesses");
  const tags = { left: document.getElementById("left-tag"), right: document.getElementById("right-tag") };
  let canvas = document.getElementById("picture");
  let paint = painter(canvas) ?? withoutCard();

  let picture = null;
  let size = { width: 1, height: 1 }; // of the result
  let layer = null; // with its bitmaps
  let hasBefore = false;
  let detail = null; // sums of measured and invented detail
  let small = null; // the result's colours at the size of the map
  let centre = { x: 0.5, y: 0.5 }; // of the view, as shares of the result
  let zoom = 1;
  let fitted = true;
  let tradeOff = 0.5;
  let map = null; // null: nothing is painted
  let side = false; // side by side
  let held = false; // the original alone is shown
  let guesses = false;
  let split = 0.5;
  let asked = false;
  let guessesDrawn = null;
  let loading = new AbortController();
  let sharpening = new AbortController();
  let measuring = new AbortController();
  let stillness = 0;
  let fetchingWhole = false;

  const divide = listenToDivider(divider, (place) => {
    split = place;
    describe();
    repaint();
  });

  const observer = new ResizeObserver(([entry]) => {
    const exact = entry.devicePixelContentBoxSize?.[0];
    const box = entry.contentRect;
    canvas.width = Math.max(1, exact?.inlineSize ?? Math.round(box.width * devicePixelRatio));
    canvas.height = Math.max(1, exact?.blockSize ?? Math.round(box.height * devicePixelRatio));
    overlay.width = canvas.width;
    overlay.height = canvas.height;
    if (!picture) return;
    resize();
    draw(); // immediately: a resized canvas is empty
  });
  watchCanvas();

  function watchCanvas() {
    canvas.addEventListener("webglcontextlost", paintWithoutCard, { once: true });
    observer.disconnect();
    try {
      observer.observe(canvas, { box: "device-pixel-content-box" });
    } catch {
      observer.observe(canvas); // Safari
    }
  }

  /** A painter on a new canvas, as a canvas keeps its first kind of context. */
  function withoutCard() {
    const fresh = canvas.cloneNode();
    canvas.replaceWith(fresh);
    canvas = fresh;
    return painter(canvas, { card: false });
  }

  /** The graphics card was lost with everything on it: continue without it. */
  function paintWithoutCard() {
    paint = withoutCard();
    watchCanvas();
    on.cardLost();
    if (picture) open(picture);
  }

  /** Canvas pixels per CSS pixel; browsers that scale a page by themselves have another ratio. */
  const ratio = () => canvas.width / (stage.clientWidth || canvas.width);
  const isSide = () => side && hasBefore && layer !== null && !held;
  /** The width of one pane, in canvas pixels. */
  const breadth = () => (isSide() ? canvas.width / 2 : canvas.width);
  const fitting = () => Math.min(MOST, breadth() / size.width, canvas.height / size.height);

  /** Move the view by so many CSS pixels, within the picture. */
  function move(dx, dy) {
    look(dx * ratio(), dy * ratio());
  }

  function look(dx = 0, dy = 0) {
    const keep = (middle, delta, length, shown) => {
      const half = shown / (2 * zoom * length);
      return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, middle - delta / (zoom * length)));
    };
    centre = { x: keep(centre.x, dx, size.width, breadth()), y: keep(centre.y, dy, size.height, canvas.height) };
    stage.classList.toggle("movable", !fitted);
    on.zoom({ level: zoom, fit: fitted });
    repaint();
    sharpen();
  }

  /** Zoom around a position of the stage, in CSS pixels. */
  function zoomTo(wanted, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const least = Math.min(fitting(), 1);
    const to = Math.min(MOST, Math.max(least, wanted));
    const across = (x * ratio()) % breadth();
    const dx = across - breadth() / 2;
    const dy = y * ratio() - canvas.height / 2;
    centre.x += (dx / size.width) * (1 / zoom - 1 / to);
    centre.y += (dy / size.height) * (1 / zoom - 1 / to);
    zoom = to;
    fitted = false;
    look();
  }

  function setLevel(name, x, y) {
    if (name === "toggle") name = fitted ? (fitting() < 1 ? 1 : 2) : "fit";
    if (name === "fit") {
      fitted = true;
      return resize();
    }
    if (name === "in") name = LEVELS.find((level) => level > zoom * 1.001) ?? MOST;
    if (name === "out") name = LEVELS.findLast((level) => level < zoom * 0.999) ?? 0;
    zoomTo(name, x, y);
  }

  function scene() {
    const corner = (middle, length, shown) => {
      const at = shown / 2 - middle * length * zoom;
      return zoom >= 1 ? Math.round(at) : at;
    };
    const x = corner(centre.x, size.width, Math.floor(breadth()));
    const y = corner(centre.y, size.height, canvas.height);
    const { width } = canvas;
    const half = Math.floor(width / 2);
    const pane = (before, left, right, at = x, frame = [0, width]) => ({ before, left, right, x: at, y, frame });
    const edge = Math.round(split * width);
    const panes =
      isSide() ? [pane(true, 0, half, x, [0, half]), pane(false, half, width, x + half, [half, width])]
      : !hasBefore ? (layer ? [pane(false, 0, width)] : [])
      : !layer || held ? [pane(true, 0, width)]
      : [pane(true, 0, edge), pane(false, edge, width)];
    return { ...size, zoom, x, y, panes, tradeOff };
  }

  function repaint() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(draw);
  }

  function draw() {
    asked = false;
    if (!picture) return;
    const shown = scene();
    paint.draw(shown);
    drawGuesses(shown);
    tellInvented();
  }

  /** The trade-off of a block, from the map or the slider. */
  function tradeOffAt(column, row) {
    if (!map) return tradeOff;
    const at = (block, blocks, samples) => Math.min(samples - 1, Math.floor(((block + 0.5) * samples) / blocks));
    return map.levels[at(row, detail.rows, map.height) * map.width + at(column, detail.columns, map.width)] / 255;
  }

  function drawGuesses({ x, y, panes }) {
    const context = overlay.getContext("2d");
    context.clearRect(0, 0, overlay.width, overlay.height);
    overlay.hidden = !guesses || !detail;
    if (overlay.hidden) return;
    if (!guessesDrawn) {
      const image = drawDetail(detail, tradeOffAt);
      guessesDrawn = new OffscreenCanvas(image.width, image.height);
      guessesDrawn.getContext("2d").putImageData(image, 0, 0);
    }
    const block = BLOCK * detail.across * zoom;
    for (const pane of panes.filter((it) => !it.before)) {
      context.save();
      context.beginPath();
      const left = Math.max(pane.left, pane.x);
      const right = Math.min(pane.right, pane.x + size.width * zoom);
      context.rect(left, y, Math.max(0, right - left), size.height * zoom);
      context.clip();
      context.fillStyle = "rgb(20 20 21 / 0.62)";
      context.fillRect(x, y, overlay.width, overlay.height);
      context.imageSmoothingQuality = "high";
      context.drawImage(guessesDrawn, pane.x, y, detail.columns * block, detail.rows * block);
      context.restore();
    }
  }

  function tellInvented() {
    if (!detail) return on.invented(null);
    on.invented(inventedShare(detail, blocksIn(detail, viewed()), tradeOffAt));
  }

  /** The visible part of the result, in its pixels. */
  function viewed() {
    const { x, y } = scene();
    return {
      left: Math.max(0, Math.floor(-x / zoom)),
      top: Math.max(0, Math.floor(-y / zoom)),
      right: Math.min(size.width, Math.ceil((breadth() - x) / zoom)),
      bottom: Math.min(size.height, Math.ceil((canvas.height - y) / zoom)),
    };
  }

  /** Load in full the visible part of an enlarged preview, once the view rests. */
  function sharpen() {
    if (!layer || layer.whole) return;
    clearTimeout(stillness);
    if (!layer.canBeWhole) sharpening.abort();
    else if (zoom < layer.scale || fetchingWhole) return;
    stillness = setTimeout(async () => {
      const { left, top, right, bottom } = viewed();
      const area = [left, top, right - left, bottom - top];
      const tooLarge = area[2] * area[3] > MOST_CROP_PIXELS || Math.max(area[2], area[3]) > paint.side;
      if (!layer.canBeWhole && (tooLarge || zoom < 1)) {
        previewNote.textContent = text("previewZoom");
        return;
      }
      sharpening = new AbortController();
      const { signal } = sharpening;
      previewNote.textContent = fetchingWords();
      fetchingWhole = layer.canBeWhole;
      describe();
      try {
        if (layer.canBeWhole) await showWhole(signal);
        else {
          const part = await crop(picture.view, area, signal);
          if (signal.aborted) return closed(part);
          paint.setLayer("detail", part);
          if (paint.kind !== "2d") closed(part); // they are on the card
          previewNote.textContent = text("everyPixel");
          repaint();
        }
      } catch (problem) {
        if (!signal.aborted) previewNote.textContent = `${text("preview")}: ${problem.message}`;
      } finally {
        if (!signal.aborted) fetchingWhole = false;
      }
    }, STILL);
  }

  const fetchingWords = () => text(isAway() ? "previewLater" : "previewFetching");

  async function showWhole(signal) {
    const whole = await branches(picture.view, paint.side, { signal, tell() {}, exact: true });
    if (signal.aborted) closed(whole);
    else showLayer(whole);
  }

  function describe() {
    const both = layer !== null && hasBefore;
    divider.hidden = !both || side || held;
    divider.style.left = `${100 * split}%`;
    divider.setAttribute("aria-valuenow", Math.round(100 * split));
    divider.setAttribute("aria-valuetext", text("dividerAt", { percent: percent(split) }));
    tags.left.hidden = !hasBefore || (both && !side && !held && split === 0);
    tags.right.hidden = !layer || held;
    tags.left.textContent = text("original");
    tags.right.textContent = text("resultAt", { value: Math.round(100 * tradeOff) });
    previewNote.hidden = !layer || layer.whole || (layer.canBeWhole && !previewNote.textContent);
    canvas.setAttribute("aria-label", layer ? text("resultOf", picture) : text("notYet", picture ?? { name: "" }));
  }

  /** Open a picture, and release everything of the previous one. */
  async function open(next) {
    picture = next;
    for (const work of [loading, sharpening, measuring]) work.abort();
    clearTimeout(stillness);
    previewNote.textContent = "";
    fetchingWhole = false;
    loading = new AbortController();
    const { signal } = loading;
    paint.setBefore(null);
    paint.setMap(null);
    paint.setLayer("base", null);
    paint.setLayer("detail", null);
    layer = detail = small = guessesDrawn = map = null;
    hasBefore = false;
    fitted = true;
    if (!picture) return repaint();
    tradeOff = picture.tradeOff;
    size = expected(picture);
    resize();

    const before = picture.file && (await decoded(picture.file, paint.side));
    if (signal.aborted) return before?.close();
    if (before) {
      if (!picture.view?.result) size = { width: 4 * before.width, height: 4 * before.height };
      paint.setBefore(before);
      hasBefore = true;
    }
    resize();
    await showResult();
  }

  /** Load the result of the open picture, if it has one. */
  async function showResult() {
    if (layer || picture?.view?.state !== "succeeded") return;
    const { signal } = loading;
    try {
      const fetched = await branches(picture.view, paint.side, { signal, tell: (share) => signal.aborted || on.loading(share) });
      if (signal.aborted || layer) return closed(fetched);
      size = expected(picture);
      showLayer(fetched);
      setMap(picture.map);
      resize();
      on.loading(null);
      on.ready();
    } catch (problem) {
      if (signal.aborted) return;
      loading.abort(); // of the other branches
      loading = new AbortController();
      on.failed(problem);
    }
  }

  function showLayer(fetched) {
    measuring.abort();
    layer = fetched;
    paint.setLayer("base", layer);
    describe();
    repaint();
    measure(layer);
  }

  /** Measure the invented detail, once the picture is on the screen. */
  async function measure(shown) {
    measuring = new AbortController();
    const { signal } = measuring;
    const measured = await measureDetail(shown, signal);
    if (!signal.aborted) {
      detail = measured;
      calibrate(detail, picture.view);
      guessesDrawn = null;
      small = smallOf(shown.psnr, picture.map);
      on.measured();
      repaint();
    }
    if (paint.kind !== "2d") closed(shown); // they are on the card
  }

  function resize() {
    if (fitted) zoom = fitting();
    describe();
    look();
  }

  /** Blend by a map; with a box, only paint in it has changed. */
  function setMap(next, box) {
    const had = map;
    map = isEmpty(next) ? null : next;
    if (map) setLevels(map, tradeOff, had === map ? box : undefined);
    if (map || had) paint.setMap(map, had === map ? box : undefined);
    guessesDrawn = null;
    repaint();
  }

  return {
    open,
    showResult,
    setLevel,
    move,
    zoomBy: (factor, x, y) => zoomTo(zoom * factor, x, y),
    divideAt: (x) => divide(x / stage.clientWidth),
    canMove: () => !fitted && (zoom * size.width > breadth() || zoom * size.height > canvas.height),
    setMap,
    hasResult: () => layer !== null,
    colours: () => small,
    /** Convert a position of the stage, in CSS pixels, to the result, in the pane that contains `begun`. */
    placeOf(x, y, begun = x) {
      const { panes } = scene();
      const within = begun * ratio();
      const pane = panes.find((it) => !it.before && within >= it.left && within < it.right) ?? panes[0] ?? { x: 0, y: 0 };
      return { x: (x * ratio() - pane.x) / zoom, y: (y * ratio() - pane.y) / zoom };
    },
    /** CSS pixels per pixel of the result. */
    scale: () => zoom / ratio(),
    size: () => size,
    viewed,
    setTradeOff(value) {
      tradeOff = value;
      if (map) {
        setLevels(map, tradeOff);
        paint.setMap(map);
      }
      guessesDrawn = null;
      describe();
      repaint();
    },
    showConnection() {
      const said = ["previewLater", "previewFetching"].map((key) => text(key));
      if (said.includes(previewNote.textContent)) previewNote.textContent = fetchingWords();
    },
    setGuesses(wanted) {
      guesses = wanted;
      repaint();
    },
    setSide(wanted) {
      side = wanted;
      resize();
    },
    /** Show the original alone while held. */
    setHeld(wanted) {
      if (held === wanted) return;
      held = wanted;
      describe();
      repaint();
    },
  };
}

/** Close the bitmaps of a layer; otherwise they stay in memory until the next garbage collection. */
function closed(layer) {
  for (const name of ["psnr", "fused", "gan"]) layer[name].close();
}

/** The colours of a bitmap, at the size of a map. */
function smallOf(bitmap, { width, height }) {
  const sheet = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  sheet.imageSmoothingQuality = "high";
  sheet.drawImage(bitmap, 0, 0, width, height);
  return sheet.getImageData(0, 0, width, height);
}

function expected({ view, width, height }) {
  if (view?.result) return { width: view.result.width, height: view.result.height };
  const image = width ? { width, height } : (view?.image ?? { width: 256, height: 192 });
  return { width: 4 * image.width, height: 4 * image.height };
}
