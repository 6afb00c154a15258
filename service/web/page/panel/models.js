// The choice of a model: its purpose, and the time it takes for the open photograph.

import { networkSeconds } from "../pictures/estimate.js";
import { site } from "../pictures/pictures.js";
import { isReady } from "../pictures/status.js";
import { duration } from "../words/numbers.js";
import { text } from "../words/text.js";

const select = document.getElementById("model");
const note = document.getElementById("model-note");
const again = document.getElementById("again-with");
const PURPOSES = {
  lite: "modelLite", base: "modelBase", "lite-real": "modelLiteReal", "paper-real": "modelPaperReal",
};

/** List the models of the service; the chosen one stays chosen if it is still available. */
export function listModels() {
  const options = site.models.map(({ name, default: usual }) => new Option(name, name, usual, usual));
  if (options.map((it) => it.outerHTML).join("") === select.innerHTML) return; // the list may be open
  const chosen = select.selectedOptions[0]?.defaultSelected ? null : select.value;
  select.replaceChildren(...options);
  if (options.some(({ value }) => value === chosen)) select.value = chosen;
}

/** Describe the chosen model, and offer it for a picture that was enlarged by another one. */
export function showModel(picture) {
  const model = site.models.find(({ name }) => name === select.value);
  if (!model) return;
  const purpose = text(PURPOSES[model.name] ?? "modelOther");
  const image = picture?.width ? picture : picture?.view?.image;
  const seconds = image && networkSeconds(image.width * image.height, model);
  note.textContent = seconds ? text("modelTime", { purpose, time: duration(Math.max(0.1, seconds)) }) : purpose;
  again.hidden = !picture?.file || !isReady(picture) || picture.view.result.model === model.name;
  again.textContent = text("againWith", { model: model.name });
}

export function onModel(changed, enlargeAgain) {
  select.addEventListener("change", changed);
  again.addEventListener("click", enlargeAgain);
}

export const chosenModel = () => select.value;
