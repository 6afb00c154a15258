// Numbers and states in plain words.

const WHOLE = new Intl.NumberFormat("en");

/** "1.2 MB": decimal units, as cameras and file managers have them. */
export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  const units = ["kB", "MB", "GB"];
  let value = count / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < 2) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** "16 megapixels". */
export function megapixels(pixels) {
  return `${+(pixels / 1e6).toFixed(1)} megapixels`;
}

/** "2,048 × 1,536", which does not break over lines. */
export function size({ width, height }) {
  return `${WHOLE.format(width)}\u00a0×\u00a0${WHOLE.format(height)}`;
}

/** "42 ms", "4.2 s", "1 min 5 s". */
export function duration(seconds) {
  if (seconds < 0.995) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** "1 hour", "30 minutes", in whole ones. */
export function span(seconds) {
  const [count, unit] =
    seconds < 5400 && seconds !== 3600 ? [Math.round(seconds / 60), "minute"]
    : seconds < 172_800 ? [Math.round(seconds / 3600), "hour"]
    : [Math.round(seconds / 86_400), "day"];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

/** "0.35". */
export function position(tradeOff) {
  return tradeOff.toFixed(2);
}

/** What a position of the slider gives. */
export function meaning(tradeOff) {
  if (tradeOff === 0) return "Faithful: no invented detail, slightly soft.";
  if (tradeOff === 0.5) return "Balanced: the network blends faithful and crisp for each pixel.";
  if (tradeOff === 1) return "Crisp: rich detail, plausible rather than exact.";
  const crisp = tradeOff < 0.5 ? tradeOff * 2 : tradeOff * 2 - 1;
  const [from, to] = tradeOff < 0.5 ? ["faithful", "balanced"] : ["balanced", "crisp"];
  return `${Math.round(crisp * 100)} % of the way from ${from} to ${to}.`;
}

/** Where a picture is on its way. */
export function state(picture) {
  const { phase, sent, view } = picture;
  if (phase === "waiting") return "Waiting to be sent";
  if (phase === "sending") return sent < 1 ? `Sending, ${Math.floor(sent * 100)} %` : "Checking";
  if (phase === "refused") return picture.problem.title;
  if (phase === "lost") return "Deleted from the service";
  if (!view) return "Loading";
  if (phase === "expired") return "The result has expired";
  switch (view.state) {
    case "queued": {
      const place = view.queue_position ? `In the queue, ${WHOLE.format(view.queue_position)} before it` : "Next in line";
      return view.starts_in_seconds ? `${place}, about ${duration(view.starts_in_seconds)}` : place;
    }
    case "running": {
      const { tiles, tiles_done: done } = view.progress;
      return tiles ? `Working, tile ${WHOLE.format(Math.min(done + 1, tiles))} of ${WHOLE.format(tiles)}` : "Decoding";
    }
    case "succeeded":
      return "Ready";
    case "cancelled":
      return "Cancelled";
    default:
      return view.failure ? view.failure.title : "Failed";
  }
}
