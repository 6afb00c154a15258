// The slider's arithmetic.

/**
 * The two branches that a position blends, and the weight of the second in 256ths, as the service
 * computes them, so that both round alike.
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

/** True if pixels are shown as squares at a zoom, for original and result alike. */
export function showsPixels(zoom) {
  return zoom >= 2 && Number.isInteger(zoom);
}
