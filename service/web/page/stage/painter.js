// The choice between the two painters.

import { paintOnCanvas } from "./paint2d.js";
import { paintOnCard } from "./paintgl.js";

/** Software renderers: the CPU painter is several times faster. */
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

/** True if there is a graphics card; checked on a separate canvas, as a canvas keeps its first kind of context. */
function hasCard() {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  const names = gl?.getExtension("WEBGL_debug_renderer_info");
  const renderer = names ? gl.getParameter(names.UNMASKED_RENDERER_WEBGL) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return gl !== null && !SOFTWARE.test(renderer);
}

/**
 * The painter of a canvas: WebGL, or without a graphics card the CPU. Null if WebGL fails: the CPU
 * painter needs another canvas then.
 *
 * `side` is the longest side of a bitmap that it takes. The layers `base` and `detail` each have the
 * `area` [x, y, width, height] of the result that they cover, and a bitmap for each branch; `before`
 * is a bitmap of the whole. `draw(scene)` paints the `panes` of a scene: each shows the original or
 * the result between the columns `left` and `right`, with the result's corner at `x`, `y`; `frame`
 * are the columns that the pane can ever show in this view.
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
