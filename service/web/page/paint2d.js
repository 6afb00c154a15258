// The same without a graphics card: a canvas scales, a loop over what is visible blends. What the
// canvas has scaled is kept until the view changes, so that the slider costs the loop alone.

import { shares, showsPixels } from "./shares.js";

/** Canvases of browsers end somewhere above this. */
const SIDE = 8192;

export function paintOnCanvas(canvas) {
  const context = canvas.getContext("2d");
  const layers = { base: null, detail: null };
  let before = null;
  let mask = null;
  let kept = { view: "", pixels: new Map() };

  /** What a bitmap that covers an area shows in this view: pixels of the canvas. */
  function scaled(bitmap, area, box, scene, exact) {
    const view = [canvas.width, canvas.height, scene.x, scene.y, scene.zoom].join();
    if (kept.view !== view) kept = { view, pixels: new Map() };
    const known = kept.pixels.get(bitmap);
    if (known) return known;
    const sheet = new OffscreenCanvas(box.width, box.height).getContext("2d", { willReadFrequently: true });
    sheet.imageSmoothingEnabled = !exact;
    sheet.imageSmoothingQuality = "high";
    const place = rectangle(area, scene);
    sheet.drawImage(bitmap, place.x - box.x, place.y - box.y, place.width, place.height);
    const pixels = sheet.getImageData(0, 0, box.width, box.height);
    kept.pixels.set(bitmap, pixels);
    return pixels;
  }

  function paint(layer, scene) {
    const box = visible(layer.area, scene, canvas);
    if (!box) return;
    const { first, second, share } = shares(scene.tradeOff);
    const sheet = new ImageData(box.width, box.height);
    const exact = layer.whole && (scene.zoom === 1 || showsPixels(scene.zoom));
    const [from, to] = [first, second].map((name) => scaled(layer[name], layer.area, box, scene, exact).data);
    blend(from, to, share, sheet.data);
    if (scene.mask) {
      const all = [0, 0, scene.width, scene.height];
      tint(sheet.data, scaled(mask, all, box, scene, false).data);
    }
    const over = new OffscreenCanvas(box.width, box.height);
    over.getContext("2d").putImageData(sheet, 0, 0);
    context.drawImage(over, box.x, box.y);
  }

  function compare(scene) {
    context.save();
    context.beginPath();
    context.rect(0, 0, layers.base ? scene.split : canvas.width, canvas.height);
    context.clip();
    const all = [0, 0, scene.width, scene.height];
    board(context, visible(all, scene, canvas));
    context.imageSmoothingEnabled = !showsPixels(scene.zoom);
    context.imageSmoothingQuality = "high";
    const place = rectangle(all, scene);
    context.drawImage(before, place.x, place.y, place.width, place.height);
    context.restore();
  }

  return {
    kind: "2d",
    side: SIDE,
    setBefore(bitmap) {
      before?.close();
      before = bitmap;
    },
    setMask(bitmap) {
      mask?.close();
      mask = bitmap;
    },
    setLayer(name, layer) {
      for (const branch of ["psnr", "fused", "gan"]) layers[name]?.[branch].close();
      layers[name] = layer;
      kept = { view: "", pixels: new Map() };
    },
    draw(scene) {
      context.clearRect(0, 0, canvas.width, canvas.height);
      board(context, visible(layers.base?.area ?? [0, 0, 0, 0], scene, canvas));
      if (layers.base) paint(layers.base, scene);
      if (layers.detail) paint(layers.detail, scene);
      if (before) compare(scene);
    },
  };
}

/**
 * Where an area of the result is on the canvas. Edges are whole pixels: at a fraction of one the board
 * would show through an opaque picture.
 */
function rectangle([x, y, width, height], scene) {
  const left = Math.round(scene.x + x * scene.zoom);
  const top = Math.round(scene.y + y * scene.zoom);
  const right = Math.max(left + 1, Math.round(scene.x + (x + width) * scene.zoom));
  const bottom = Math.max(top + 1, Math.round(scene.y + (y + height) * scene.zoom));
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** The part of the canvas that an area of the result covers; null for none. */
function visible(area, scene, canvas) {
  const place = rectangle(area, scene);
  const left = Math.max(0, place.x);
  const top = Math.max(0, place.y);
  const right = Math.min(canvas.width, place.x + place.width);
  const bottom = Math.min(canvas.height, place.y + place.height);
  if (right <= left || bottom <= top) return null;
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** Linear, in 256ths, rounded: the service's own sum. */
function blend(first, second, share, into) {
  const rest = 256 - share;
  for (let i = 0; i < into.length; i += 1) into[i] = (first[i] * rest + second[i] * share + 128) >> 8;
}

function tint(colours, mask) {
  for (let i = 0; i < colours.length; i += 4) {
    const grey = 0.55 * (0.2126 * colours[i] + 0.7152 * colours[i + 1] + 0.0722 * colours[i + 2]);
    const made = (0.85 * mask[i]) / 255;
    colours[i] = grey + (255 - grey) * made;
    colours[i + 1] = grey + (158 - grey) * made;
    colours[i + 2] = grey + (41 - grey) * made;
  }
}

/** What shows through a transparent picture. */
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
