// Fingers, mouse, wheel and keys on the stage, told as moves and zooms in CSS pixels.

const STEP = 60;

/**
 * Listen on the stage: `move(dx, dy)`, `zoom(factor, x, y)`, `level(name)` with fit, real, in, out or
 * toggle, and `canMove()`, which says whether a drag moves the picture or scrolls the page.
 */
export function listen(stage, { move, zoom, level, canMove }) {
  const fingers = new Map();

  stage.addEventListener("pointerdown", (event) => {
    if (event.button || event.target.closest("#divider")) return;
    fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (event.pointerType === "mouse" || canMove() || fingers.size > 1) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const box = stage.getBoundingClientRect();
    const now = { x: event.clientX - box.left, y: event.clientY - box.top };
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    fingers.set(event.pointerId, now);
    if (other) {
      const spread = Math.hypot(now.x - other.x, now.y - other.y);
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      if (was > 0) zoom(spread / was, (now.x + other.x) / 2, (now.y + other.y) / 2);
      move((now.x - before.x) / 2, (now.y - before.y) / 2);
    } else if (canMove()) {
      move(now.x - before.x, now.y - before.y);
    }
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }

  stage.addEventListener("dblclick", (event) => {
    if (event.target.closest("#divider")) return;
    level("toggle", event.offsetX, event.offsetY);
  });

  // A wheel over a stage that nobody has touched scrolls the page, as everywhere else on it.
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !stage.contains(document.activeElement)) return;
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      const lines = event.deltaMode === 1 ? 16 : 1;
      const factor = Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 100 : 400));
      zoom(factor, event.clientX - box.left, event.clientY - box.top);
    },
    { passive: false },
  );

  stage.addEventListener("keydown", (event) => {
    if (event.target !== stage || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowLeft: () => move(STEP, 0),
      ArrowRight: () => move(-STEP, 0),
      ArrowUp: () => move(0, STEP),
      ArrowDown: () => move(0, -STEP),
      "+": () => level("in"),
      "=": () => level("in"),
      "-": () => level("out"),
      0: () => level("fit"),
      1: () => level("real"),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

/** A divider that is dragged, or moved by keys; `tell` gets its place from 0 to 1. */
export function listenToDivider(divider, stage, tell) {
  let place = 0.5;
  function set(to) {
    place = Math.min(1, Math.max(0, to));
    divider.setAttribute("aria-valuenow", Math.round(100 * place));
    divider.setAttribute("aria-valuetext", `${Math.round(100 * place)} % original`);
    divider.style.left = `${100 * place}%`;
    tell(place);
  }
  divider.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    divider.setPointerCapture(event.pointerId);
    divider.focus({ preventScroll: true });
    event.preventDefault();
  });
  divider.addEventListener("pointermove", (event) => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = stage.getBoundingClientRect();
    set((event.clientX - box.left) / box.width);
  });
  divider.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const to = {
      ArrowLeft: place - step, ArrowDown: place - step,
      ArrowRight: place + step, ArrowUp: place + step,
      PageDown: place - 0.1, PageUp: place + 0.1, Home: 0, End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    set(to);
  });
  set(place);
}
