// What the viewer shows, fetched: the original, the three branches, the mask. A result that is too
// large for the screen's hardware comes as a smaller preview, and in full where one zooms in.

import { request } from "./api.js";

export const BRANCHES = ["psnr", "fused", "gan"];
/** Above so many pixels three branches take more memory than a browser should. */
const MOST_PIXELS = 64e6;
const PREVIEW_SIDE = 4096;

/** Whether all pixels of a result can be shown at once. */
export function fits({ width, height }, side) {
  return Math.max(width, height) <= side && width * height <= MOST_PIXELS;
}

/** The branches of a job, as a layer for a painter. */
export async function branches(view, side, { signal, tell }) {
  const { width, height } = view.result;
  const whole = fits(view.result, side);
  const longest = Math.min(PREVIEW_SIDE, side);
  const smaller = whole ? "" : width >= height ? `&width=${longest}` : `&height=${longest}`;
  const sums = {};
  const bitmaps = await Promise.all(
    BRANCHES.map((name) =>
      bitmap(`jobs/${view.id}/result?output=${name}${smaller}`, signal, (got, all) => {
        sums[name] = { got, all };
        tell(sums);
      }),
    ),
  );
  return { area: [0, 0, width, height], whole, psnr: bitmaps[0], fused: bitmaps[1], gan: bitmaps[2] };
}

/** Every pixel of an area `[x, y, width, height]`. */
export async function crop(view, area, signal) {
  const bitmaps = await Promise.all(
    BRANCHES.map((name) => bitmap(`jobs/${view.id}/result?output=${name}&region=${area.join()}`, signal)),
  );
  if (bitmaps.some(({ width, height }) => width !== area[2] || height !== area[3])) {
    throw new TypeError("the service sent another part than was asked for");
  }
  return { area, whole: true, psnr: bitmaps[0], fused: bitmaps[1], gan: bitmaps[2] };
}

/** Where the network trusted its crisp branch; null where the service keeps no mask. */
export async function mask(view, side, signal) {
  const { width, height } = view.result;
  const longest = Math.min(PREVIEW_SIDE, side);
  const smaller = fits(view.result, side) ? "" : width >= height ? `&width=${longest}` : `&height=${longest}`;
  return bitmap(`jobs/${view.id}/result?output=mask${smaller}`, signal);
}

/** A file of the user's own as a bitmap, upright and in sRGB; null if the browser cannot read it. */
export async function decoded(file, longest) {
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

/** A picture of the service with its samples as they are: no profile applied, nothing premultiplied. */
async function bitmap(path, signal, tell = () => {}) {
  const answer = await request(path, { signal });
  const all = Number(answer.headers.get("Content-Length")) || 0;
  const parts = [];
  let got = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    got += value.length;
    tell(got, all);
  }
  return createImageBitmap(new Blob(parts, { type: "image/png" }), {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
}
