// The stage: what is shown of a picture, how large and where, and the divider. One result pixel at
// 100 % is one pixel of the screen.

import { painter } from "./blend.js";
import { listen, listenToDivider } from "./gestures.js";
import { branches, crop, decoded, mask } from "./layers.js";

const LEVELS = [0.125, 0.25, 0.5, 1, 2, 3, 4, 6, 8];
const MOST = 8;
/** Full-resolution crops are fetched when the view has stood still for so long, in milliseconds. */
const STILL = 250;
const MOST_CROP_PIXELS = 16e6;

/**
 * A viewer on the page's stage. `open(picture)` shows its original, and its result if there is one;
 * `showResult` fetches one that has come since. It tells of its size by `on.zoom({level, fit})`, of
 * what is being fetched by `on.loading(sums)` (null: all is there), of refusals by `on.failed`.
 */
export function createViewer(on) {
  const stage = document.getElementById("stage");
  const divider = document.getElementById("divider");
  const previewNote = document.getElementById("preview");
  const tags = { left: document.getElementById("left-tag"), right: document.getElementById("right-tag") };
  let canvas = stage.querySelector("canvas");
  let paint = painter(canvas);

  let picture = null;
  let size = { width: 1, height: 1 }; // of the result
  let hasResult = false;
  let hasBefore = false;
  let whole = true; // every pixel of the result is here
  let centre = { x: 0.5, y: 0.5 }; // of the view, in parts of the result
  let zoom = 1;
  let fitted = true;
  let tradeOff = 0.5;
  let masked = false;
  let hasMask = false;
  let split = 0.5;
  let asked = false;
  let loading = new AbortController();
  let cropping = new AbortController();
  let stillness = 0;

  listen(stage, {
    move: (dx, dy) => look({ dx: dx * devicePixelRatio, dy: dy * devicePixelRatio }),
    zoom: (factor, x, y) => zoomTo(zoom * factor, x, y),
    level: setLevel,
    canMove: () => !fitted,
  });
  listenToDivider(divider, stage, (place) => {
    split = place;
    repaint();
  });
  canvas.addEventListener("webglcontextlost", paintWithoutCard, { once: true });

  const observer = new ResizeObserver(([entry]) => {
    const exact = entry.devicePixelContentBoxSize?.[0];
    const box = entry.contentRect;
    canvas.width = Math.max(1, exact?.inlineSize ?? Math.round(box.width * devicePixelRatio));
    canvas.height = Math.max(1, exact?.blockSize ?? Math.round(box.height * devicePixelRatio));
    if (!picture) return;
    resize();
    draw(); // at once: a resized canvas is empty
  });
  watchSize();

  function watchSize() {
    observer.disconnect();
    try {
      observer.observe(canvas, { box: "device-pixel-content-box" });
    } catch {
      observer.observe(canvas); // Safari
    }
  }

  /** The graphics card was lost, with all that was on it: go on in a new canvas without it. */
  function paintWithoutCard() {
    const fresh = canvas.cloneNode();
    canvas.replaceWith(fresh);
    canvas = fresh;
    paint = painter(canvas, { card: false });
    watchSize();
    if (picture) open(picture);
  }

  function fitting() {
    return Math.min(1, canvas.width / size.width, canvas.height / size.height);
  }

  /** Move the view by so many canvas pixels, and keep the picture in it. */
  function look({ dx = 0, dy = 0 } = {}) {
    const keep = (middle, delta, side, length) => {
      const half = length / (2 * zoom * side);
      const wanted = middle - delta / (zoom * side);
      return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, wanted));
    };
    centre = {
      x: keep(centre.x, dx, size.width, canvas.width),
      y: keep(centre.y, dy, size.height, canvas.height),
    };
    stage.classList.toggle("movable", !fitted);
    on.zoom({ level: zoom, fit: fitted });
    repaint();
    sharpen();
  }

  /** Zoom so that what is under a place of the stage, in CSS pixels, stays there. */
  function zoomTo(wanted, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const least = fitting();
    const to = Math.min(MOST, Math.max(least, wanted));
    const dx = x * devicePixelRatio - canvas.width / 2;
    const dy = y * devicePixelRatio - canvas.height / 2;
    centre.x += (dx / size.width) * (1 / zoom - 1 / to);
    centre.y += (dy / size.height) * (1 / zoom - 1 / to);
    zoom = to;
    fitted = to <= least;
    look();
  }

  function setLevel(name, x, y) {
    const target = {
      fit: () => fitting(),
      real: () => 1,
      toggle: () => (fitted && fitting() < 1 ? 1 : fitted ? 2 : fitting()),
      in: () => LEVELS.find((level) => level > zoom * 1.001) ?? MOST,
      out: () => LEVELS.findLast((level) => level < zoom * 0.999) ?? 0,
    }[name]();
    zoomTo(target, x, y);
    if (name === "fit") fitted = true;
    look();
  }

  function scene() {
    const corner = (middle, side, length) => {
      const at = length / 2 - middle * side * zoom;
      return zoom >= 1 ? Math.round(at) : at;
    };
    return {
      width: size.width, height: size.height, zoom,
      x: corner(centre.x, size.width, canvas.width),
      y: corner(centre.y, size.height, canvas.height),
      split: Math.round(split * canvas.width),
      tradeOff, mask: masked && hasMask,
    };
  }

  function repaint() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(draw);
  }

  function draw() {
    asked = false;
    if (picture) paint.draw(scene());
  }

  /** Fetch in full what is visible of a preview, once the view stands still. */
  function sharpen() {
    if (whole || !hasResult) return;
    clearTimeout(stillness);
    cropping.abort();
    stillness = setTimeout(async () => {
      const { x, y } = scene();
      const left = Math.max(0, Math.floor(-x / zoom));
      const top = Math.max(0, Math.floor(-y / zoom));
      const right = Math.min(size.width, Math.ceil((canvas.width - x) / zoom));
      const bottom = Math.min(size.height, Math.ceil((canvas.height - y) / zoom));
      const area = [left, top, right - left, bottom - top];
      if (area[2] * area[3] > MOST_CROP_PIXELS || Math.max(area[2], area[3]) > paint.side) {
        previewNote.textContent = "A preview: zoom in to see every pixel";
        return;
      }
      cropping = new AbortController();
      const { signal } = cropping;
      previewNote.textContent = "A preview: fetching every pixel here";
      try {
        const layer = await crop(picture.view, area, signal);
        if (signal.aborted) return;
        paint.setLayer("detail", layer);
        previewNote.textContent = "Every pixel";
        repaint();
      } catch (problem) {
        if (!signal.aborted) previewNote.textContent = `A preview: ${problem.message}`;
      }
    }, STILL);
  }

  function describe() {
    tags.left.hidden = divider.hidden = !(hasResult && hasBefore);
    tags.right.hidden = !hasResult && !hasBefore;
    tags.left.textContent = "Original";
    const result = masked ? "Mask" : `Result, ${tradeOff.toFixed(2)}`;
    tags.right.textContent = hasResult ? result : "Original";
    previewNote.hidden = whole || !hasResult;
    canvas.setAttribute("aria-label", hasResult ? `Result of ${picture.name}` : `${picture.name}, not enlarged yet`);
  }

  /** Begin with a picture; what belonged to the one before is let go. */
  async function open(next) {
    picture = next;
    loading.abort();
    cropping.abort();
    loading = new AbortController();
    const { signal } = loading;
    paint.setBefore(null);
    paint.setMask(null);
    paint.setLayer("base", null);
    paint.setLayer("detail", null);
    hasResult = hasBefore = hasMask = false;
    whole = fitted = true;
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

  /** Fetch the result of the picture that is open, if it has one. */
  async function showResult() {
    if (hasResult || picture.view?.state !== "succeeded") return;
    const { signal } = loading;
    try {
      const layer = await branches(picture.view, paint.side, { signal, tell: on.loading });
      if (signal.aborted) return;
      size = expected(picture);
      whole = layer.whole;
      paint.setLayer("base", layer);
      hasResult = true;
      resize();
      on.loading(null);
      if (masked) await loadMask();
    } catch (problem) {
      if (!signal.aborted) on.failed(problem);
    }
  }

  async function loadMask() {
    const { signal } = loading;
    const bitmap = await mask(picture.view, paint.side, signal);
    if (signal.aborted) return bitmap.close();
    paint.setMask(bitmap);
    hasMask = true;
    repaint();
  }

  function resize() {
    if (fitted) zoom = fitting();
    describe();
    look();
  }

  return {
    open,
    showResult,
    setLevel,
    setTradeOff(value) {
      tradeOff = value;
      describe();
      repaint();
    },
    /** Show or hide how much `fused` takes from the crisp branch; raises a Problem if that is gone. */
    async showMask(wanted) {
      masked = wanted;
      if (masked && hasResult && !hasMask) await loadMask();
      describe();
      repaint();
    },
  };
}

function expected({ view, width, height }) {
  if (view?.result) return { width: view.result.width, height: view.result.height };
  const image = width ? { width, height } : (view?.image ?? { width: 256, height: 192 });
  return { width: 4 * image.width, height: 4 * image.height };
}
