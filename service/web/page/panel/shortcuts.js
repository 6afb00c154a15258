// Keyboard shortcuts, and the list of them that `?` shows.

import { text } from "../words/text.js";

const dialog = document.getElementById("shortcuts");
const STEP = 60;

/** Keys as labelled on the user's keyboard. */
const labels = {
  Space: text("labelSpace"),
  Ctrl: /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : text("labelCtrl"),
  Del: text("labelDel"),
};
const labelled = (name) => name.replace(/Space|Ctrl|Del/, (it) => labels[it]);

function help() {
  dialog.showModal();
  dialog.scrollTop = 0; // the focused button is below a long list
}

/** `act` has a function for each name below. Shortcuts do not apply while text is typed. */
export function listenToKeys(act) {
  const table = [
    [["Space"], "keySpace"],
    [["0", "1", "2", "4", "8"], "keyFit", { 0: () => act.level("fit"), 1: () => act.level(1), 2: () => act.level(2), 4: () => act.level(4), 8: () => act.level(8) }],
    [["+", "-"], "keyZoom", { "+": () => act.level("in"), "=": () => act.level("in"), "-": () => act.level("out") }],
    [["←", "↑", "→", "↓"], "keyMove"],
    [["S"], "keySide", { s: act.side }],
    [["M"], "keyGuess", { m: act.guesses }],
    [["B"], "keyBrush", { b: act.brush }],
    [["X"], "keySwap", { x: act.swap }],
    [["E"], "keyErase", { e: act.erase }],
    [["[", "]"], "keySize", { "[": () => act.brushSize(-1), "]": () => act.brushSize(1) }],
    [["Enter"], "keyPaint"],
    [["Ctrl Z", "Ctrl Y"], "keyUndo"],
    [["Ctrl S"], "keySave"],
    [[",", "."], "keyNext", { ",": () => act.next(-1), ".": () => act.next(1) }],
    [["Del"], "keyRemove", { Delete: act.remove }],
    [["?"], "keyHelp", { "?": help }],
  ];
  const keys = Object.assign({}, ...table.map(([, , found]) => found ?? {}));
  const onStage = {
    ArrowLeft: () => act.move(STEP, 0),
    ArrowRight: () => act.move(-STEP, 0),
    ArrowUp: () => act.move(0, STEP),
    ArrowDown: () => act.move(0, -STEP),
    Enter: act.paint,
  };
  const typing = ({ target }) => target.closest("dialog, select, input:not([type=range], [type=checkbox])");

  document.addEventListener("keydown", (event) => {
    if (typing(event) || document.querySelector("dialog[open]")) return;
    const bracket = event.altKey && "[]".includes(event.key); // many keyboards need AltGr or Option for these
    const command = (event.ctrlKey || event.metaKey) && !bracket;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const found =
      command ? { z: event.shiftKey ? act.redo : act.undo, y: act.redo, s: act.save }[key]
      : event.altKey && !bracket ? null
      : event.target.id === "stage" && onStage[event.key] ? onStage[event.key]
      : keys[key];
    const holds = event.key === " " && !event.target.closest("button, summary, a, input:not([type=range])");
    if (!found && !holds) return;
    event.preventDefault();
    if (event.repeat && found === act.remove) return; // a held key would remove one picture after another
    if (holds) act.hold(true);
    else found();
  });
  document.addEventListener("keyup", (event) => event.key === " " && act.hold(false));
  window.addEventListener("blur", () => act.hold(false));

  document.getElementById("help").addEventListener("click", help);
  document.getElementById("keys").replaceChildren(
    ...table.flatMap(([names, word]) => {
      const dt = document.createElement("dt");
      dt.append(...names.map((name) => Object.assign(document.createElement("kbd"), { textContent: labelled(name) })));
      const dd = document.createElement("dd");
      dd.textContent = text(word);
      return [dt, dd];
    }),
  );
}
