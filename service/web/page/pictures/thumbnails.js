// Thumbnails for the strip, made one at a time, since each is decoded in full for a moment.

import { received } from "../net/api.js";
import { result } from "../net/results.js";
import { decoded } from "../stage/layers.js";
import { headerSize } from "./header.js";

const SIDE = 240;
let turn = Promise.resolve();

/**
 * Make one of the original or, if the browser cannot read it, of the result. Sets the picture's `width`
 * and `height`; resolves with a canvas, or null if there is nothing to show yet.
 */
export async function thumbnail(picture) {
  try {
    return (await inTurn(() => ofOriginal(picture))) ?? (await ofResult(picture));
  } catch {
    return null;
  }
}

function inTurn(make) {
  const made = turn.then(make);
  turn = made.catch(() => {});
  return made;
}

async function ofOriginal(picture) {
  if (!picture.file) return null;
  const bitmap = await decoded(picture.file, Infinity);
  const { width, height } = bitmap ?? (await headerSize(picture.file)) ?? {};
  Object.assign(picture, { width, height });
  return bitmap && drawn(bitmap);
}

/** Not queued: it may wait for the service, and pictures are uploaded after their turn. */
async function ofResult(picture) {
  if (!picture.view?.result) return null;
  const { signal } = picture.stopping;
  const wanted = { output: "psnr", width: SIDE, height: SIDE, format: "png" };
  const file = await received(() => result(picture.id, wanted, signal), (answer) => answer.blob(), signal);
  return drawn(await createImageBitmap(file));
}

function drawn(bitmap) {
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
