// The state of a picture as text, and its possible actions.

import { CUT_OFF, Problem } from "../net/api.js";
import { isAway } from "../net/connection.js";
import { count, duration, percent } from "../words/numbers.js";
import { text } from "../words/text.js";
import { secondsLeft } from "./estimate.js";

/** Errors with these statuses may be temporary. */
const PASSING = [401, 408, 409, 429];
const WAITING = "…"; // a badge

/** True if a picture is in progress. */
export function busy({ phase, view }) {
  return phase === "waiting" || phase === "sending" || (phase === "known" && (!view || ["queued", "running"].includes(view.state)));
}

export const isReady = ({ phase, view }) => phase === "known" && view?.state === "succeeded";

/**
 * `words` for the stage, a `badge` for the strip, the share `done` (null: unknown; undefined: not in
 * progress), and `actions` among cancel, again, remove, halve, crop and fill.
 */
export function statusOf(picture, models, now = Date.now()) {
  const { phase, sent, view, problem } = picture;
  const away = isAway();
  const say = (words, badge, more = {}) => ({ words, badge, done: away ? undefined : null, actions: [], ...more });
  const retry = picture.file || (phase === "refused" && picture.id) ? ["again", "remove"] : ["remove"];
  if (away && ["waiting", "sending"].includes(phase)) return say(text("notSentYet"), WAITING, { actions: ["cancel"] });
  switch (phase) {
    case "waiting":
      return say(problem ? `${text("waiting")}: ${problem.words}` : text("waiting"), WAITING, { actions: ["cancel"] });
    case "sending":
      if (sent >= 1) return say(text("checking"), WAITING, { actions: ["cancel"] });
      return say(text("sending", { percent: percent(sent) }), percent(sent), { done: sent, actions: ["cancel"] });
    case "refused":
      return say(problem.words, "!", { actions: actionsFor(picture, retry) });
    case "lost":
      return say(text("lost"), "!", { actions: retry });
    case "expired":
      return say(text("expired"), "!", { actions: retry });
    default:
  }
  if (!view) return say(text("loading"), WAITING);
  const left = secondsLeft(picture, models, now);
  const timed = (state) =>
    away ? text("lastKnown", { state }) : left === null ? state : text("left", { state, time: duration(Math.round(left)) });
  if (picture.cancelling && busy(picture)) return say(text("cancelling"), WAITING);
  switch (view.state) {
    case "queued": {
      const place = view.queue_position;
      const words = place ? text("inLine", { count: count(place) }) : text("nextInLine");
      return say(timed(words), count((place ?? 0) + 1), { actions: ["cancel"] });
    }
    case "running": {
      const { tiles, tiles_done: tilesDone } = view.progress;
      if (!tiles) return say(timed(text("opening")), WAITING, { actions: ["cancel"] });
      const done = tilesDone / tiles;
      return say(timed(text("working", { percent: percent(done) })), percent(done), { done, actions: ["cancel"] });
    }
    case "succeeded":
      return say(text("ready"), "✓", { done: 1 });
    case "cancelled":
      return say(text("cancelled"), "–", { actions: retry });
    default: {
      if (!view.failure) return say(text("failed"), "!", { actions: retry });
      const failure = new Problem(view.failure);
      return say(failure.words, "!", { actions: actionsFor({ ...picture, problem: failure }, retry) });
    }
  }
}

function actionsFor({ problem, file, hasThumbnail }, retry) {
  if (problem.slug === "image-too-large" && hasThumbnail) return ["halve", "crop", "remove"];
  if (problem.slug === CUT_OFF && file) return ["fill", "remove"];
  if (problem.slug === "model-unknown") return retry; // with another model
  const permanent = problem.permanent || (problem.status >= 400 && problem.status < 500 && !PASSING.includes(problem.status));
  return permanent ? ["remove"] : retry;
}
