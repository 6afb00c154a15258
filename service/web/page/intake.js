// Three ways in: chosen, pasted, dropped anywhere on the page.

const input = document.getElementById("files");

/** Tell of files, whichever way they come; folders and empty nothings are left out. */
export function onFiles(tell) {
  const accept = (files) => {
    const usable = [...files].filter((file) => file.size || file.type);
    if (usable.length) tell(usable);
  };
  input.addEventListener("change", () => {
    accept(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    accept(event.clipboardData.files);
  });
  onDrop(accept);
}

function onDrop(accept) {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // a drag enters each child before it leaves the one before
  const show = (count) => {
    inside = count;
    document.body.classList.toggle("dropping", inside > 0);
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && show(inside + 1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && show(inside - 1));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    show(0);
    accept(event.dataTransfer.files);
  });
}
