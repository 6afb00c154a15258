// Estimates of a picture's remaining time: one estimate for all displays, updated with the clock.

/** Seconds of computation for a picture of so many pixels; null if no speed was measured. */
export function networkSeconds(pixels, model) {
  const speeds = (model?.devices ?? []).map(({ pixels_per_second: speed }) => speed.fused).filter(Boolean);
  return speeds.length ? pixels / Math.max(...speeds) : null;
}

/** Seconds left at `now`, in milliseconds; null if unknown. */
export function secondsLeft({ phase, view, heardAt, runningAt, tilesAtStart, width, height }, models, now) {
  if (phase !== "known" || !view) return null;
  const name = view.options.model;
  const model = models.find((it) => (name ? it.name === name : it.default));
  const pixels = width ? width * height : view.image.width * view.image.height;
  const work = networkSeconds(pixels, model);
  const since = (time) => (now - time) / 1000;
  if (view.state === "queued") {
    if (view.starts_in_seconds === null) return null;
    return Math.max(1, view.starts_in_seconds - since(heardAt) + (work ?? 0));
  }
  if (view.state !== "running") return null;
  const { tiles, tiles_done: done } = view.progress;
  const fresh = done - tilesAtStart;
  if (tiles && fresh > 0) {
    const each = (heardAt - runningAt) / 1000 / fresh;
    return Math.max(1, (tiles - done) * each - since(heardAt));
  }
  return work === null ? null : Math.max(1, work - since(runningAt));
}
