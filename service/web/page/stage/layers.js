// Loads the layers of the viewer: the original and the three branches. A result is loaded as small
// previews first, and in full when the user zooms in: all of it or, if that is too large for the
// hardware, the part in view.

import { received } from "../net/api.js";
import { result } from "../net/results.js";
import { headerSize } from "../pictures/header.js";

const BRANCHES = ["psnr", "fused", "gan"];
/** Above so many pixels, three branches take too much memory. */
const MOST_PIXELS = 64e6;
const PREVIEW_SIDE = 4096;
/** A larger photograph, of 1 GB and more, is not decoded: it would stall or crash the browser. */
const MOST_DECODED = 256e6;
/** Up to so many bytes of three branches, a result needs no preview. */
const FEW_BYTES = 2e6;

/** True if a result can be shown in full. */
function fits({ width, height }, side) {
  return Math.max(width, height) <= side && width * height <= MOST_PIXELS;
}

/** Query fields that make a result small enough; none if it is. */
function smaller({ width, height }, side) {
  if (fits({ width, height }, side)) return {};
  const longest = Math.min(PREVIEW_SIDE, side);
  return { format: "png", ...(width >= height ? { width: longest } : { height: longest }) };
}

/**
 * The branches of a job, as a layer for a painter; `tell` gets the loaded share. `exact`: with all
 * pixels. A layer has the `scale` of its bitmaps, is `whole` if it has all pixels, and `canBeWhole` if
 * these can be loaded.
 */
export async function branches({ id, result: made }, side, { signal, tell, exact = false }) {
  const sums = {};
  const heard = (output) => (got, all) => {
    sums[output] = { got, all };
    const every = Object.values(sums);
    tell(every.reduce((sum, it) => sum + it.got, 0) / every.reduce((sum, it) => sum + it.all, 0));
  };
  const canBeWhole = fits(made, side);
  const few = canBeWhole && BRANCHES.length * made.size <= FEW_BYTES;
  const preview = !exact && !few && BRANCHES.every((output) => made.previews.includes(output));
  const wanted = preview ? { preview: "true" } : smaller(made, side);
  const [psnr, fused, gan] = await Promise.all(
    BRANCHES.map((output) => bitmap(id, { output, ...wanted }, signal, heard(output))),
  );
  const area = [0, 0, made.width, made.height];
  return { area, scale: psnr.width / made.width, whole: canBeWhole && !preview, canBeWhole, psnr, fused, gan };
}

/** All pixels of an area `[x, y, width, height]`. */
export async function crop({ id }, area, signal) {
  const part = { region: area.join(), format: "png" };
  const [psnr, fused, gan] = await Promise.all(BRANCHES.map((output) => bitmap(id, { output, ...part }, signal)));
  return { area, whole: true, psnr, fused, gan };
}

/** A local file as a bitmap, upright and in sRGB; null if the browser cannot read it or it is too large. */
export async function decoded(file, longest) {
  const stated = await headerSize(file);
  if (stated && stated.width * stated.height > MOST_DECODED) return null;
  try {
    const upright = await createImageBitmap(file, { premultiplyAlpha: "none" });
    const factor = longest / Math.max(upright.width, upright.height);
    if (factor >= 1) return upright;
    const resizeWidth = Math.max(1, Math.round(upright.width * factor));
    const resizeHeight = Math.max(1, Math.round(upright.height * factor));
    const less = await createImageBitmap(upright, { resizeWidth, resizeHeight, resizeQuality: "high", premultiplyAlpha: "none" });
    upright.close();
    return less;
  } catch {
    return null;
  }
}

/** A picture of the service with its exact samples: no profile applied, nothing premultiplied. */
async function bitmap(id, wanted, signal, tell = () => {}) {
  async function read(answer) {
    const all = Number(answer.headers.get("Content-Length")) || 1;
    const parts = [];
    let got = 0;
    for (const reader = answer.body.getReader(); ; ) {
      const { value, done } = await reader.read();
      if (done) return new Blob(parts, { type: answer.headers.get("Content-Type") });
      parts.push(value);
      got += value.length;
      tell(Math.min(got, all), all);
    }
  }
  const file = await received(() => result(id, wanted, signal), read, signal);
  return createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}
