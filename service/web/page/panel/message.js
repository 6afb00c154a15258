// Messages over the stage: progress of a picture, or its error with a remedy.

import { text } from "../words/text.js";

const box = document.getElementById("message");
const words = document.getElementById("working");
const progress = document.getElementById("stage-progress");
const row = document.getElementById("actions");
const LABELS = { cancel: "cancel", again: "tryAgain", fetch: "tryAgain", remove: "remove", halve: "halve", crop: "crop", fill: "fillMissing" };
const stage = document.getElementById("stage");
let shownActions = "";

/** Show a text, with buttons for `actions` that call `act[name]()`; an empty text hides it. */
export function showMessage(said, { actions = [], done = undefined } = {}, act = {}) {
  box.hidden = !said;
  if (words.textContent !== said) words.textContent = said;
  progress.hidden = done === undefined;
  if (done === null || done === undefined) progress.removeAttribute("value");
  else progress.value = done;
  if (actions.join() === shownActions) return; // keeps the focus of a button
  shownActions = actions.join();
  const focused = row.contains(document.activeElement);
  row.hidden = !actions.length;
  row.replaceChildren(
    ...actions.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text(LABELS[name]);
      button.dataset.action = name;
      button.addEventListener("click", () => act[name]());
      return button;
    }),
  );
  if (focused) (row.querySelector("button") ?? stage).focus();
}
