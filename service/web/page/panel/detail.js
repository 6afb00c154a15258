// The inspector's first sections: the slider with its named positions, and the meter of guesswork.

import { percent } from "../words/numbers.js";
import { text } from "../words/text.js";

const slider = document.getElementById("trade-off");
const position = document.getElementById("position");
const meaning = document.getElementById("meaning");
const stops = [...document.querySelectorAll("[data-stop]")];
const meter = document.getElementById("meter");
const line = document.getElementById("invented");

/** Call `tell` with each trade-off, while the slider moves. */
export function onSlider(tell) {
  slider.addEventListener("input", () => {
    showTradeOff(slider.valueAsNumber / 100);
    tell(slider.valueAsNumber / 100);
  });
  for (const stop of stops) {
    stop.addEventListener("click", () => {
      slider.value = stop.dataset.stop;
      slider.dispatchEvent(new Event("input"));
    });
  }
}

export function showTradeOff(tradeOff) {
  const value = Math.round(100 * tradeOff);
  slider.value = value;
  slider.style.setProperty("--at", `${value}%`);
  position.textContent = value;
  meaning.textContent = meaningOf(tradeOff);
  slider.setAttribute("aria-valuetext", `${value}. ${meaningOf(tradeOff)}`);
  for (const stop of stops) stop.setAttribute("aria-pressed", String(Number(stop.dataset.stop) === value));
}

function meaningOf(tradeOff) {
  if (tradeOff === 0) return text("meaningTrue");
  if (tradeOff === 0.5) return text("meaningBalanced");
  if (tradeOff === 1) return text("meaningCrisp");
  const crisp = tradeOff < 0.5 ? tradeOff * 2 : tradeOff * 2 - 1;
  const [from, to] = tradeOff < 0.5 ? ["fromTrue", "fromBalanced"] : ["fromBalanced", "fromCrisp"];
  return text("meaningBetween", { percent: percent(crisp), from: text(from), to: text(to) });
}

/** Show the invented share of the fine detail in view; null: unknown. */
export function showInvented(share) {
  const shown = share > 0 ? Math.max(1, Math.round(100 * share)) : 0;
  meter.setAttribute("aria-valuenow", shown);
  meter.ariaHidden = share === null;
  meter.style.setProperty("--invented", `${shown}%`);
  meter.classList.toggle("unknown", share === null);
  const words =
    share === null ? (slider.disabled ? "" : text("guessworkWait"))
    : shown === 0 ? text("guessworkNone")
    : text("guessworkLine", { percent: percent(shown / 100) });
  if (line.textContent !== words) line.textContent = words;
}
