// Strokes on a trade-off map, with undo and redo.

const MOST_STEPS = 60;
const TARGETS = { truer: -255, crisper: 255, erase: 0 };

/**
 * A brush on a map. Positions and sizes are in samples of the map; `changed(box)` is called for each
 * part whose paint has changed.
 */
export function createBrush(map, changed) {
  const done = [];
  const undone = [];
  let stroke = null;

  function begin(tool) {
    end();
    stroke = { target: TARGETS[tool], cover: new Uint8Array(map.paint.length), before: map.paint.slice(), box: null, last: null };
  }

  /** Paint to a position: dabs from the last one on, close enough to look like a line. */
  function strokeTo(x, y, { radius, softness }) {
    if (!stroke) return; // an undo has ended it
    const from = stroke.last ?? { x, y };
    const steps = Math.max(1, Math.ceil(Math.hypot(x - from.x, y - from.y) / Math.max(0.5, radius / 4)));
    let box = null;
    for (let step = stroke.last ? 1 : steps; step <= steps; step += 1) {
      const at = { x: from.x + ((x - from.x) * step) / steps, y: from.y + ((y - from.y) * step) / steps };
      box = union(box, dab(at, radius, softness));
    }
    stroke.last = { x, y };
    if (box) apply(box);
  }

  function dab({ x, y }, radius, softness) {
    const box = clipped({ left: Math.floor(x - radius), top: Math.floor(y - radius), right: Math.ceil(x + radius) + 1, bottom: Math.ceil(y + radius) + 1 });
    if (!box) return null;
    const hard = 1 - softness;
    for (let row = box.y; row < box.y + box.height; row += 1) {
      for (let column = box.x; column < box.x + box.width; column += 1) {
        const distance = Math.hypot(column + 0.5 - x, row + 0.5 - y) / radius;
        if (distance >= 1) continue;
        const inward = distance <= hard ? 1 : (1 - distance) / softness;
        const cover = Math.round(255 * inward * inward * (3 - 2 * inward));
        const i = row * map.width + column;
        if (cover > stroke.cover[i]) stroke.cover[i] = cover;
      }
    }
    return box;
  }

  /** Paint an area at once; `cover` has a value from 0 to 255 for each sample. */
  function fill(tool, cover) {
    begin(tool);
    stroke.cover = cover;
    apply({ x: 0, y: 0, width: map.width, height: map.height });
    end();
  }

  function apply(box) {
    const { target, cover, before } = stroke;
    for (let row = box.y; row < box.y + box.height; row += 1) {
      const end = row * map.width + box.x + box.width;
      for (let i = end - box.width; i < end; i += 1) {
        map.paint[i] = before[i] + Math.round(((target - before[i]) * cover[i]) / 255);
      }
    }
    stroke.box = union(stroke.box, box);
    changed(box);
  }

  /** End the stroke. */
  function end() {
    if (stroke?.box) {
      done.push({ box: stroke.box, before: cut(stroke.before, stroke.box), after: cut(map.paint, stroke.box) });
      if (done.length > MOST_STEPS) done.shift();
      undone.length = 0;
    }
    stroke = null;
  }

  /** Cancel the stroke; steps that were undone before it can still be redone. */
  function drop() {
    if (stroke?.box) put(stroke.box, cut(stroke.before, stroke.box));
    stroke = null;
  }

  function step(from, to, key) {
    end();
    const it = from.pop();
    if (!it) return;
    to.push(it);
    put(it.box, it[key]);
  }

  function put(box, part) {
    const { x, y, width, height } = box;
    for (let row = 0; row < height; row += 1) {
      map.paint.set(part.subarray(row * width, (row + 1) * width), (y + row) * map.width + x);
    }
    changed(box);
  }

  function cut(paint, { x, y, width, height }) {
    const part = new Int16Array(width * height);
    for (let row = 0; row < height; row += 1) {
      const from = (y + row) * map.width + x;
      part.set(paint.subarray(from, from + width), row * width);
    }
    return part;
  }

  function clipped({ left, top, right, bottom }) {
    const x = Math.max(0, left);
    const y = Math.max(0, top);
    const width = Math.min(map.width, right) - x;
    const height = Math.min(map.height, bottom) - y;
    return width > 0 && height > 0 ? { x, y, width, height } : null;
  }

  return {
    begin,
    strokeTo,
    end,
    drop,
    fill,
    clear: () => fill("erase", new Uint8Array(map.paint.length).fill(255)),
    undo: () => step(done, undone, "before"),
    redo: () => step(undone, done, "after"),
    canUndo: () => done.length > 0,
    canRedo: () => undone.length > 0,
  };
}

function union(one, other) {
  if (!one || !other) return one ?? other;
  const x = Math.min(one.x, other.x);
  const y = Math.min(one.y, other.y);
  return {
    x, y,
    width: Math.max(one.x + one.width, other.x + other.width) - x,
    height: Math.max(one.y + one.height, other.y + other.height) - y,
  };
}
