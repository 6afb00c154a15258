// The page's words in the reader's language. A language is one file of this folder; a word that it
// lacks is English.

import english from "./en.js";

const OTHERS = { de: () => import("./de.js"), zh: () => import("./zh.js") };

const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages]
  .filter(Boolean)
  .map((name) => name.split("-")[0].toLowerCase())
  .find((name) => name === "en" || Object.hasOwn(OTHERS, name));

export const language = wanted ?? "en";
const words = { ...english, ...(language in OTHERS ? (await OTHERS[language]()).default : {}) };

/** The words for a type of problem, by its slug; undefined where those of the service do. */
export const problemText = (slug) => words.problems[slug];

/** The words for a warning of a job; those of the service where there are none. */
export const noteText = (warning) => words.notes[warning] ?? warning;

/** The words for a key, with `{names}` replaced. */
export function text(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Fill what is marked in the document: `data-text`, `data-label`, `data-title`. */
export function translate(root = document) {
  document.documentElement.lang = language;
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
  for (const element of root.querySelectorAll("[data-title]")) element.title = text(element.dataset.title);
}
