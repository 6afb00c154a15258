// Texts of the page in the user's language: one file of this folder for each language; a missing text
// is in English.

import english from "./en.js";

const OTHERS = { de: () => import("./de.js"), zh: () => import("./zh.js") };

const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages]
  .filter(Boolean)
  .map((name) => name.split("-")[0].toLowerCase())
  .find((name) => name === "en" || Object.hasOwn(OTHERS, name));

export const language = wanted ?? "en";
const words = { ...english, ...(language in OTHERS ? (await OTHERS[language]()).default : {}) };

/** The text for a problem type, by its slug; undefined: use that of the service. */
export const problemText = (slug) => words.problems[slug];

/** The text for a warning of a job; without one, that of the service. */
export const noteText = (warning) => words.notes[warning] ?? warning;

/** The text for a key, with `{names}` replaced. */
export function text(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Fill in the texts of the document: `data-text`, `data-label`, `data-title`. */
export function translate(root = document) {
  document.documentElement.lang = language;
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
  for (const element of root.querySelectorAll("[data-title]")) element.title = text(element.dataset.title);
}
