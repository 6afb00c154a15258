// Touch, mouse and wheel on the stage, in CSS pixels. Keys are in the shortcuts.

/** A press of so many milliseconds without movement shows the original. */
const LONG_PRESS = 350;
/** A pointer that moved less is a tap. */
const STILL = 6;

/**
 * Listen on the stage: `move(dx, dy)`, `zoom(factor, x, y)`, `toggle(x, y)` on a double click,
 * `tap(x, y)`, `hover(x, y)`, `hold(down)` for a long press. `paints()` is whether one finger paints,
 * and `canMove()` whether it moves the picture; otherwise it drags the divider by `divide(x)`. Strokes
 * are `stroke(x, y, phase)` with begin, on, end or cancel.
 */
export function listen(stage, { move, zoom, toggle, tap, hover, hold, divide, paints, canMove, stroke }) {
  const fingers = new Map();
  let press = null;

  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  function letGo() {
    clearTimeout(press?.timer);
    if (press?.held) hold(false);
    if (press?.painting) stroke(0, 0, "end");
    press = null;
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button || event.target.closest("#message")) return;
    const now = place(event);
    const divider = event.target.closest("#divider");
    fingers.set(event.pointerId, now);
    (divider ?? stage).setPointerCapture(event.pointerId);
    if (fingers.size > 1) {
      if (press?.painting) stroke(0, 0, "cancel");
      if (press) press.painting = false;
      return letGo();
    }
    const painting = paints();
    press = { start: now, divider, moved: divider !== null, held: false, painting };
    if (painting) return stroke(now.x, now.y, "begin");
    if (divider) return;
    press.timer = setTimeout(() => {
      press.held = true;
      hold(true);
    }, LONG_PRESS);
  });

  stage.addEventListener("pointermove", (event) => {
    const now = place(event);
    hover(now.x, now.y);
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (press?.painting) {
      for (const part of event.getCoalescedEvents?.() ?? [event]) {
        const { x, y } = place(part);
        stroke(x, y, "on");
      }
    } else if (other) {
      const spread = Math.hypot(now.x - other.x, now.y - other.y);
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      if (was > 0) zoom(spread / was, (now.x + other.x) / 2, (now.y + other.y) / 2);
      move((now.x - before.x) / 2, (now.y - before.y) / 2);
    } else if (press && !press.held) {
      press.moved ||= Math.hypot(now.x - press.start.x, now.y - press.start.y) > STILL;
      if (!press.moved) return;
      clearTimeout(press.timer);
      if (canMove() && !press.divider) move(now.x - before.x, now.y - before.y);
      else divide(now.x);
    }
    fingers.set(event.pointerId, now);
  });

  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      if (!fingers.delete(event.pointerId) || !press) return;
      const tapped = end === "pointerup" && !press.moved && !press.held && !press.painting;
      const { x, y } = press.start;
      letGo();
      if (tapped) tap(x, y);
    });
  }
  stage.addEventListener("pointerleave", () => hover(null));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());

  stage.addEventListener("dblclick", (event) => {
    if (event.target.closest("#message, #divider") || paints()) return;
    const { x, y } = place(event);
    toggle(x, y);
  });

  stage.addEventListener(
    "wheel",
    (event) => {
      if (event.target.closest("#message")) return;
      event.preventDefault();
      const { x, y } = place(event);
      const lines = event.deltaMode === 1 ? 16 : 1;
      zoom(Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 100 : 400)), x, y);
    },
    { passive: false },
  );
}

/** Keyboard control of the divider; `tell` gets its position from 0 to 1. Returns `set(position)`. */
export function listenToDivider(divider, tell) {
  let place = 0.5;
  function set(to) {
    place = Math.min(1, Math.max(0, to));
    tell(place);
  }
  divider.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const to = {
      ArrowLeft: place - step, ArrowDown: place - step,
      ArrowRight: place + step, ArrowUp: place + step,
      PageDown: place - 0.1, PageUp: place + 0.1, Home: 0, End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    set(to);
  });
  set(place);
  return set;
}
