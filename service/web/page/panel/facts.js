// About a result: by which model it was made, where, and how long it took.

import { clock, duration, percent, size } from "../words/numbers.js";
import { text } from "../words/text.js";

const list = document.getElementById("facts");
const STAGES = { queue: "stageQueue", decode: "stageDecode", infer: "stageInfer", blend: "stageBlend", encode: "stageEncode", cache: "stageCache" };

export function showFacts(picture) {
  const made = picture?.view?.result;
  document.getElementById("about").hidden = !made;
  if (!made) return list.replaceChildren();
  const rows = [
    ["factSize", text("factKept", { size: size(made), time: clock(made.expires_at) })],
    ["factModel", made.model],
    ["factDevice", `${made.device}, ${made.precision}`],
    ["factTime", Object.entries(made.seconds).map(([stage, it]) => `${STAGES[stage] ? text(STAGES[stage]) : stage} ${duration(it)}`).join(" · ")],
  ];
  if (typeof made.invented === "number") rows.push(["factInvented", percent(made.invented)]);
  if (made.warnings.length) rows.push(["factNote", made.warnings.join("; ")]);
  list.replaceChildren(
    ...rows.flatMap(([term, value]) => {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = text(term);
      dd.textContent = value;
      return [dt, dd];
    }),
  );
}
