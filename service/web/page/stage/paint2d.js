// Painting on the CPU: a canvas scales, and a loop blends the visible pixels. Scaled and blended pixels
// are cached until the view changes. So the slider costs only the loop, the divider nothing, and a
// brush stroke only its own pixels.

import { samplesOf, twice } from "../brush/map.js";
import { shares, showsPixels } from "./shares.js";

/** Maximum side of a canvas in browsers. */
const SIDE = 8192;

export function paintOnCanvas(canvas) {
  const context = canvas.getContext("2d");
  const layers = { base: null, detail: null };
  let before = null;
  let map = null;
  let kept = new Map();

  /** A canvas with the visible box of a layer in a pane, blended. */
  function blended(name, scene, pane) {
    const layer = layers[name];
    const box = visible(layer.area, scene, pane);
    if (!box) return null;
    const view = [name, pane.x, pane.y, scene.zoom, box.x, box.y, box.width, box.height].join();
    let known = kept.get(name);
    if (known?.view !== view) {
      known = { view, box, layer, scaled: {}, blend: "" };
      kept.set(name, known);
    }
    const place = rectangle(layer.area, scene, pane);
    const exact = layer.whole && (scene.zoom === 1 || showsPixels(scene.zoom));
    const branch = (which) => (known.scaled[which] ??= scaled(layer[which], place, box, exact));
    const blend = map ? "map" : String(scene.tradeOff);
    if (known.blend === blend) return known;
    if (known.blend === "" || !known.sheet) {
      known.sheet = new OffscreenCanvas(box.width, box.height).getContext("2d");
      known.image = new ImageData(box.width, box.height);
    }
    known.blend = blend;
    if (map) {
      const at = (corner, start) => (i) => Math.floor((start + i + 0.5 - corner) / scene.zoom);
      known.columns = samplesOf(scene.width, map.width, box.width, at(pane.x, box.x));
      known.rows = samplesOf(scene.height, map.height, box.height, at(pane.y, box.y));
      known.branches = ["psnr", "fused", "gan"].map(branch);
      blendByMap(known, { left: 0, top: 0, right: box.width, bottom: box.height });
    } else {
      const { first, second, share } = shares(scene.tradeOff);
      blendEvenly(branch(first), branch(second), share, known.image.data);
      known.sheet.putImageData(known.image, 0, 0);
    }
    return known;
  }

  function blendByMap({ image, branches, columns, rows, sheet }, part) {
    const [psnr, fused, gan] = branches;
    const { data, width } = image;
    const { levels } = map;
    for (let y = part.top; y < part.bottom; y += 1) {
      const upper = rows.first[y] * map.width;
      const lower = rows.second[y] * map.width;
      const down = rows.share[y];
      for (let x = part.left; x < part.right; x += 1) {
        const left = columns.first[x];
        const right = columns.second[x];
        const across = columns.share[x];
        const above = levels[upper + left] * (256 - across) + levels[upper + right] * across;
        const below = levels[lower + left] * (256 - across) + levels[lower + right] * across;
        const position = twice(above * (256 - down) + below * down);
        const crisp = position > 256;
        const share = crisp ? position - 256 : position;
        const rest = 256 - share;
        const [one, other] = crisp ? [fused, gan] : [psnr, fused];
        const i = 4 * (y * width + x);
        data[i] = (one[i] * rest + other[i] * share + 128) >> 8;
        data[i + 1] = (one[i + 1] * rest + other[i + 1] * share + 128) >> 8;
        data[i + 2] = (one[i + 2] * rest + other[i + 2] * share + 128) >> 8;
        data[i + 3] = psnr[i + 3];
      }
    }
    sheet.putImageData(image, 0, 0, part.left, part.top, part.right - part.left, part.bottom - part.top);
  }

  function paintResult(scene, pane) {
    board(context, visible([0, 0, scene.width, scene.height], scene, pane));
    for (const name of ["base", "detail"]) {
      const shown = layers[name] && blended(name, scene, pane);
      if (shown) context.drawImage(shown.sheet.canvas, shown.box.x, shown.box.y);
    }
  }

  function paintBefore(scene, pane) {
    const all = [0, 0, scene.width, scene.height];
    board(context, visible(all, scene, pane));
    context.imageSmoothingEnabled = !showsPixels(scene.zoom);
    context.imageSmoothingQuality = "high";
    const place = rectangle(all, scene, pane);
    context.drawImage(before, place.x, place.y, place.width, place.height);
  }

  return {
    kind: "2d",
    side: SIDE,
    setBefore(bitmap) {
      before?.close();
      before = bitmap;
    },
    setLayer(name, layer) {
      for (const branch of ["psnr", "fused", "gan"]) layers[name]?.[branch].close();
      layers[name] = layer;
      kept.delete(name);
    },
    /** Set a map instead of a single trade-off; with a box, only levels in it have changed. */
    setMap(next, box) {
      const same = map && map === next;
      map = next;
      for (const known of kept.values()) {
        if (!same || !box) known.blend = known.blend && "other";
        else if (known.blend === "map") {
          const part = {
            left: known.columns.second.findIndex((sample) => sample >= box.x),
            top: known.rows.second.findIndex((sample) => sample >= box.y),
            right: known.columns.first.findLastIndex((sample) => sample < box.x + box.width) + 1,
            bottom: known.rows.first.findLastIndex((sample) => sample < box.y + box.height) + 1,
          };
          if (part.left >= 0 && part.top >= 0) blendByMap(known, part);
        }
      }
    },
    draw(scene) {
      context.clearRect(0, 0, canvas.width, canvas.height);
      for (const pane of scene.panes) {
        context.save();
        context.beginPath();
        context.rect(pane.left, 0, pane.right - pane.left, canvas.height);
        context.clip();
        const framed = { ...pane, height: canvas.height };
        if (pane.before) paintBefore(scene, framed);
        else paintResult(scene, framed);
        context.restore();
      }
    },
  };
}

/** The samples of a bitmap's canvas that a box shows. */
function scaled(bitmap, place, box, exact) {
  const sheet = new OffscreenCanvas(box.width, box.height).getContext("2d", { willReadFrequently: true });
  sheet.imageSmoothingEnabled = !exact;
  sheet.imageSmoothingQuality = "high";
  sheet.drawImage(bitmap, place.x - box.x, place.y - box.y, place.width, place.height);
  return sheet.getImageData(0, 0, box.width, box.height).data;
}

/**
 * The position of an area of the result on the canvas, in whole pixels: at fractions, the checkerboard
 * would show through an opaque picture.
 */
function rectangle([x, y, width, height], { zoom }, pane) {
  const left = Math.round(pane.x + x * zoom);
  const top = Math.round(pane.y + y * zoom);
  const right = Math.max(left + 1, Math.round(pane.x + (x + width) * zoom));
  const bottom = Math.max(top + 1, Math.round(pane.y + (y + height) * zoom));
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** The part of an area inside the frame of a pane; null if there is none. */
function visible(area, scene, pane) {
  const place = rectangle(area, scene, pane);
  const left = Math.max(pane.frame[0], place.x);
  const top = Math.max(0, place.y);
  const right = Math.min(pane.frame[1], place.x + place.width);
  const bottom = Math.min(pane.height, place.y + place.height);
  if (right <= left || bottom <= top) return null;
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** Linear interpolation in 256ths, rounded like the service. */
function blendEvenly(first, second, share, into) {
  const rest = 256 - share;
  for (let i = 0; i < into.length; i += 1) into[i] = (first[i] * rest + second[i] * share + 128) >> 8;
}

/** The background of a transparent picture. */
function board(context, box) {
  if (!box) return;
  const tile = new OffscreenCanvas(16, 16);
  const squares = tile.getContext("2d");
  squares.fillStyle = "#f2f2f2";
  squares.fillRect(0, 0, 16, 16);
  squares.fillStyle = "#cccccc";
  squares.fillRect(0, 0, 8, 8);
  squares.fillRect(8, 8, 8, 8);
  context.fillStyle = context.createPattern(tile, "repeat");
  context.fillRect(box.x, box.y, box.width, box.height);
}
