// The brush: its tools, the ring under the pointer, strokes on the open picture.

import { createBrush } from "../brush/brush.js";
import { floodFrom } from "../brush/flood.js";
import { createMap, isEmpty, paintedShare } from "../brush/map.js";
import { keepPaint } from "../pictures/store.js";
import { count, percent } from "../words/numbers.js";
import { text } from "../words/text.js";

const at = (id) => document.getElementById(id);
const tools = [...document.querySelectorAll("[data-tool]")];
const ring = at("ring");
const stage = at("stage");
const SIZES = { least: 8, most: 800 };

/**
 * The brush of a viewer; `shown()` is the open picture, `painted(picture)` is called after each stroke.
 * Without a tool the pointer moves the picture.
 */
export function createPainting(viewer, shown, painted) {
  let tool = null;
  let last = "crisper";
  let filling = false;
  let cursor = null; // in CSS pixels of the stage
  let stroking = null; // the picture, with the start of the stroke and whether it fills

  const diameter = () => Math.round(SIZES.least * (SIZES.most / SIZES.least) ** (at("brush-size").valueAsNumber / 100));
  /** Create the map of a picture that has a result, with the paint from before a reload. */
  function prepare(picture) {
    picture.map ??= createMap(viewer.size(), picture.paint);
    picture.brush ??= createBrush(picture.map, (box) => picture === shown() && viewer.setMap(picture.map, box));
    show();
  }

  function stroke(x, y, phase) {
    if (phase === "begin") {
      if (stroking) stroke(x, y, "end");
      const picture = shown();
      stroking = picture?.brush ? { picture, x, y, fills: filling } : null;
      if (stroking && !filling) picture.brush.begin(tool);
    }
    if (!stroking) return;
    const { picture, fills } = stroking;
    const { brush } = picture;
    if (phase === "end" || phase === "cancel") {
      if (fills && phase === "end") fillLater(stroking);
      else if (phase === "end") brush?.end();
      else brush?.drop();
      stroking = null;
      fill(picture);
      return keep(picture);
    }
    if (fills || picture !== shown() || !brush) return;
    const spot = spotOf(x, y, stroking);
    brush.strokeTo(spot.x, spot.y, { radius: (diameter() / 2) * spot.factor, softness: at("softness").valueAsNumber / 100 });
  }

  /** Convert a position on the stage to the map; a stroke stays in the pane where it started. */
  function spotOf(x, y, begun) {
    const { map } = begun.picture;
    const place = viewer.placeOf(x, y, begun.x);
    const factor = map.width / viewer.size().width;
    return { x: place.x * factor, y: place.y * (map.height / viewer.size().height), factor };
  }

  function fillLater({ picture, x, y }) {
    const { map } = picture;
    if (picture !== shown() || !tool) return;
    const spot = spotOf(x, y, { picture, x });
    const inside = spot.x >= 0 && spot.y >= 0 && spot.x < map.width && spot.y < map.height;
    if (inside) (picture.fills ??= []).push({ tool, x: Math.floor(spot.x), y: Math.floor(spot.y) });
  }

  /** Carry out fills that waited for the colours of a picture, once they are available. */
  function fill(picture) {
    const colours = viewer.colours();
    if (picture !== shown() || !colours) return;
    for (const { tool: chosen, x, y } of picture.fills ?? []) picture.brush.fill(chosen, floodFrom(colours, x, y));
    picture.fills = null;
  }

  function keep(picture) {
    if (!picture.map) return; // it is being enlarged again
    picture.paint = picture.map.paint;
    if (picture.id) keepPaint(picture.id, picture.paint);
    show();
    painted(picture);
  }

  function choose(next) {
    tool = next;
    if (tool) last = tool;
    show();
  }

  function show() {
    const picture = shown();
    for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    at("fill").setAttribute("aria-pressed", String(filling));
    at("size-value").textContent = text("pixels", { count: count(diameter()) });
    at("softness-value").textContent = percent(at("softness").valueAsNumber / 100);
    at("brush-size").setAttribute("aria-valuetext", at("size-value").textContent);
    for (const id of ["brush-size", "softness"]) at(id).style.setProperty("--at", `${at(id).value}%`);
    at("undo").disabled = !picture?.fills?.length && !picture?.brush?.canUndo();
    at("redo").disabled = !picture?.brush?.canRedo();
    const empty = isEmpty(picture?.map);
    at("clear").disabled = empty;
    const said =
      picture?.fills?.length ? text("fillLater")
      : empty ? text("brushLead")
      : text("painted", { percent: percent(Math.max(0.01, paintedShare(picture.map))) });
    if (at("painted").textContent !== said) at("painted").textContent = said;
    stage.classList.toggle("painting", tool !== null);
    hover();
  }

  /** Move the ring; it keeps its position when the zoom changes. */
  function hover(x = cursor?.x ?? null, y = cursor?.y) {
    cursor = x === null ? null : { x, y };
    ring.hidden = !cursor || !tool || !viewer.hasResult();
    if (ring.hidden) return;
    const across = filling ? 8 : diameter() * viewer.scale();
    ring.style.width = ring.style.height = `${across}px`;
    ring.style.translate = `${x - across / 2}px ${y - across / 2}px`;
  }

  function undo(which) {
    const picture = shown();
    if (!picture?.brush) return;
    if (which === "clear") picture.fills = null;
    if (which !== "undo" || !picture.fills?.pop()) picture.brush[which]();
    keep(picture);
  }

  function resize(steps) {
    at("brush-size").value = at("brush-size").valueAsNumber + 5 * steps;
    show();
  }

  for (const button of tools) {
    button.addEventListener("click", () => choose(tool === button.dataset.tool ? null : button.dataset.tool));
  }
  at("fill").addEventListener("click", () => {
    filling = !filling;
    if (filling && !tool) choose(last);
    show();
  });
  for (const id of ["brush-size", "softness"]) at(id).addEventListener("input", show);
  for (const id of ["undo", "redo", "clear"]) at(id).addEventListener("click", () => undo(id));
  show();

  return {
    prepare,
    stroke,
    hover,
    show,
    undo,
    resize,
    choose,
    paints: () => tool !== null && viewer.hasResult(),
    toggle: () => choose(tool ? null : last),
    swap: () => choose(last === "truer" ? "crisper" : "truer"),
    /** By keyboard: move the ring, starting in the middle, and paint there. */
    moveRing(dx, dy) {
      const { x, y } = cursor ?? { x: stage.clientWidth / 2, y: stage.clientHeight / 2 };
      hover(Math.min(stage.clientWidth, Math.max(0, x + dx)), Math.min(stage.clientHeight, Math.max(0, y + dy)));
    },
    fillWaiting() {
      const picture = shown();
      if (stroking || !picture.fills) return; // otherwise at the end of the stroke
      fill(picture);
      keep(picture);
    },
    dab() {
      const { x, y } = cursor ?? { x: stage.clientWidth / 2, y: stage.clientHeight / 2 };
      stroke(x, y, "begin");
      stroke(x, y, "end");
    },
  };
}
