// Inputs: file dialogs, a folder, the camera, paste, and drop anywhere on the page.

/** File extensions of the service's formats. Browsers know no media type of some, such as HEIC and JPEG XL. */
const ENDINGS = { jpeg: ["jpg", "jpeg", "jpe", "jfif"], tiff: ["tif", "tiff"], heic: ["heic", "heif", "hif"] };
const PICTURE = /\.(avif|bmp|gif|hei[cf]|hif|jfif|jp(e|g|eg)|jxl|png|tiff?|webp)$/i;

/** The `accept` attribute of a file dialog for these formats. */
export const acceptFor = (formats) =>
  formats.flatMap((name) => [`image/${name}`, ...(ENDINGS[name] ?? [name]).map((ending) => `.${ending}`)]).join();

/** True if a file of a chosen folder is a picture. */
const isPicture = ({ name, type }) => (type ? type.startsWith("image/") : PICTURE.test(name));
const inOrder = (one, other) => one.localeCompare(other, undefined, { numeric: true });

function ofFolder(files) {
  const visible = files.filter((file) => isPicture(file) && !/(^|\/)\./.test(file.webkitRelativePath));
  return visible.sort((one, other) => inOrder(one.webkitRelativePath, other.webkitRelativePath));
}

/** Call `tell` with files from any input, including those in folders; empty ones are left out, so the list may be empty. */
export function onFiles(tell) {
  const accept = (files) => tell([...files].filter((file) => (file.size || file.type) && !file.name.startsWith(".")));
  for (const id of ["files", "folder", "camera"]) {
    const input = document.getElementById(id);
    input.addEventListener("change", () => {
      accept(id === "folder" ? ofFolder([...input.files]) : input.files);
      input.value = ""; // so that the same file can be chosen again
      document.getElementById("stage").focus(); // a click on a label focuses its input
    });
  }
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    accept(event.clipboardData.files);
  });
  onDrop(accept);
}

function onDrop(accept) {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // a drag enters each child before it leaves the previous one
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
    filesOf(event.dataTransfer).then(accept);
  });
}

/** The dropped files, including those in folders; entries are valid only during the event. */
async function filesOf({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...files];
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) return new Promise((resolve) => entry.file((file) => resolve([file]), () => resolve([])));
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) break;
    found.push(...some);
  }
  const visible = found.filter(({ name }) => !name.startsWith("."));
  visible.sort((one, other) => inOrder(one.name, other.name));
  const files = (await Promise.all(visible.map(filesIn))).flat();
  return files.filter(isPicture);
}
