// About a result: its model, the worker, and the time it took.

import { duration, moment, percent, size } from "../words/numbers.js";
import { noteText, text } from "../words/text.js";

const list = document.getElementById("facts");
const STAGES = { queue: "stageQueue", decode: "stageDecode", infer: "stageInfer", blend: "stageBlend", encode: "stageEncode", cache: "stageCache" };

export function showFacts(picture) {
  const made = picture?.view?.result;
  document.getElementById("about").hidden = !made;
  if (!made) return list.replaceChildren();
  const rows = [
    [text("factSize"), text("factKept", { size: size(made), time: moment(made.expires_at) })],
    [text("factModel"), made.model],
    [text("factDevice"), `${made.device}, ${made.precision}`],
    [text("factTime"), Object.entries(made.seconds).map(([stage, it]) => `${STAGES[stage] ? text(STAGES[stage]) : stage} ${duration(it)}`).join(" · ")],
  ];
  if (typeof made.invented === "number") {
    rows.push([text("factInvented", { value: Math.round(100 * picture.view.options.trade_off) }), percent(made.invented)]);
  }
  if (made.warnings.length) rows.push([text("factNote"), made.warnings.map(noteText).join("; ")]);
  list.replaceChildren(
    ...rows.flatMap(([term, value]) => {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = value;
      return [dt, dd];
    }),
  );
}
