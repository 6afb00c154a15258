// The trade-off map of a picture: where the brush has made it truer or crisper than the slider.
//
// It has at most `LONGEST` samples a side. `paint` is relative to the slider, from -255 (true) to 255
// (crisp), so that the slider still moves painted areas; `levels` is sent to the service.

const LONGEST = 1024;

/** A map for a result, with the paint from before a reload if there is any. */
export function createMap({ width, height }, paint) {
  const factor = Math.min(1, LONGEST / Math.max(width, height));
  const across = Math.max(1, Math.round(width * factor));
  const down = Math.max(1, Math.round(height * factor));
  const map = { width: across, height: down, paint: new Int16Array(across * down), levels: new Uint8Array(across * down) };
  if (paint?.length === map.paint.length) map.paint.set(paint);
  return map;
}

export function isEmpty(map) {
  return !map || map.paint.every((value) => value === 0);
}

/** The painted share of the picture, 0 to 1. */
export function paintedShare(map) {
  let painted = 0;
  for (const value of map.paint) if (value) painted += 1;
  return painted / map.paint.length;
}

/** Compute the levels of a box of the map (default: all of it) for a slider position. */
export function setLevels({ width, height, paint, levels }, tradeOff, box = { x: 0, y: 0, width, height }) {
  const table = levelTable(Math.round(255 * tradeOff));
  for (let y = box.y; y < box.y + box.height; y += 1) {
    const end = y * width + box.x + box.width;
    for (let i = end - box.width; i < end; i += 1) levels[i] = table[paint[i] + 255];
  }
}

function levelTable(base) {
  return Uint8Array.from({ length: 511 }, (_, i) => {
    const paint = i - 255;
    return Math.round(base + ((paint < 0 ? base : 255 - base) * paint) / 255);
  });
}

/**
 * For pixels `from` to `from + length` of a side of `size` pixels: the two neighbouring samples of the
 * map and the weight of the second, in 256ths. Centres are aligned and the borders repeated, with the
 * same integer arithmetic as the service. `pixel` maps each index to a pixel of the side.
 */
export function samplesOf(size, samples, length, pixel) {
  const first = new Int32Array(length);
  const second = new Int32Array(length);
  const share = new Int32Array(length);
  for (let i = 0; i < length; i += 1) {
    const at = Math.min(size - 1, Math.max(0, pixel(i)));
    const place = Math.min(2 * size * (samples - 1), Math.max(0, (2 * at + 1) * samples - size));
    first[i] = Math.floor(place / (2 * size));
    share[i] = Math.floor((256 * (place - 2 * size * first[i]) + size) / (2 * size));
    second[i] = Math.min(first[i] + 1, samples - 1);
  }
  return { first, second, share };
}

/** Twice the trade-off in 256ths, 0 to 512, of an interpolated level of 255 * 65536 at most. */
export const twice = (interpolated) => ((interpolated + 16320) / 32640) | 0;
