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

/** Renderers that are programs, not cards: the loop is several times quicker than they are. */
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

/** Whether there is a graphics card; asked of a context of its own, for a canvas has one kind for life. */
function hasCard() {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  const names = gl?.getExtension("WEBGL_debug_renderer_info");
  const renderer = names ? gl.getParameter(names.UNMASKED_RENDERER_WEBGL) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return gl !== null && !SOFTWARE.test(renderer);
}

/**
 * What draws on a canvas: the graphics card, or where there is none a loop.
 *
 * `side` is the longest side of a bitmap that it takes. The layers `base` and `detail` have each the
 * `area` [x, y, width, height] of the result that they cover, and a bitmap for each branch;
 * original and mask are bitmaps of the whole. `draw(scene)` paints. Bitmaps become the painter's.
 */
export function painter(canvas) {
  return (hasCard() && paintOnCard(canvas)) || paintOnCanvas(canvas);
}
