// The slider's arithmetic, and the choice of who paints.

import { paintOnCanvas } from "./paint2d.js";
import { paintOnCard } from "./paintgl.js";

/**
 * Which two branches a position is made of, and how much of the second, in 256ths: what the service
 * computes with, so that both round alike.
 */
export function shares(tradeOff) {
  if (tradeOff === 1) return { first: "gan", second: "gan", share: 0 };
  if (tradeOff < 0.5) return { first: "psnr", second: "fused", share: even(2 * tradeOff * 256) };
  return { first: "fused", second: "gan", share: even((2 * tradeOff - 1) * 256) };
}

/** Rounded, halves to the even number. */
function even(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

/**
 * What draws on a canvas: the graphics card, or where there is none a loop.
 *
 * `side` is the longest side of a bitmap that it takes. The layers `base` and `detail` have each the
 * `area` [x, y, width, height] of the result that they cover, and a bitmap for each branch;
 * original and mask are bitmaps of the whole. `draw(scene)` paints. Bitmaps become the painter's.
 */
export function painter(canvas) {
  return paintOnCard(canvas) ?? paintOnCanvas(canvas);
}
