// The choice of who paints.

import { paintOnCanvas } from "./paint2d.js";
import { paintOnCard } from "./paintgl.js";

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
 * The painter of a canvas: the graphics card, or where there is none a loop. Null if the card fails: the
 * loop needs another canvas then.
 *
 * `side` is the longest side of a bitmap that it takes. The layers `base` and `detail` have each the
 * `area` [x, y, width, height] of the result that they cover, and a bitmap for each branch; `before`
 * is a bitmap of the whole. `draw(scene)` paints the `panes` of a scene: each shows the original or
 * the result between the columns `left` and `right`, with the result's corner at `x`, `y`; `frame`
 * are the columns that it may ever show in this view.
 */
export function painter(canvas, { card = hasCard() } = {}) {
  if (!card) return paintOnCanvas(canvas);
  try {
    return paintOnCard(canvas);
  } catch (failure) {
    console.warn(failure);
    return null;
  }
}
