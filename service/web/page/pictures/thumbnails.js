// Small pictures for the strip, made one after another: each is decoded in full for a moment.

import { result } from "../net/results.js";
import { decoded } from "../stage/layers.js";

const SIDE = 240;
let turn = Promise.resolve();

/**
 * Of the original, or where the browser cannot read it, of the result. Sets the picture's `width` and
 * `height`, and resolves with a canvas, or null where there is nothing to show yet.
 */
export function thumbnail(picture) {
  const made = turn.then(() => (picture.removed ? null : make(picture)));
  turn = made.catch(() => {});
  return made.catch(() => null);
}

async function make(picture) {
  let bitmap = picture.file && (await decoded(picture.file, Infinity));
  if (bitmap) {
    Object.assign(picture, { width: bitmap.width, height: bitmap.height });
  } else if (picture.view?.result) {
    const answer = await result(picture.id, { output: "psnr", width: SIDE, height: SIDE, format: "png" });
    bitmap = await createImageBitmap(await answer.blob());
  }
  if (!bitmap) return null;
  const factor = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height));
  const sheet = document.createElement("canvas");
  sheet.width = Math.max(1, Math.round(bitmap.width * factor));
  sheet.height = Math.max(1, Math.round(bitmap.height * factor));
  const context = sheet.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, sheet.width, sheet.height);
  bitmap.close();
  return sheet;
}
