"use strict";

const MOST_FILES = 100, PARALLEL = 4;
const find = (id) => document.getElementById(id);

// Returns a new element; children are elements and texts.
function create(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Returns the JSON that the server answers, or throws an error with its message.
async function request(path, options) {
  const response = await fetch(path, options).catch(() => null);
  if (!response) throw new Error("the server can't be reached");
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the server answers ${response.status}`);
  return answer;
}

const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

function classList(classes) {
  const items = classes.map((found) => {
    const bar = create("div", { className: "bar" });
    bar.style.width = `${100 * found.probability}%`;
    const track = create("div", { className: "track" }, bar);
    return create("li", {}, create("span", {}, found.class), create("span", { className: "number" }, percent(found.probability)), track);
  });
  return create("ol", { className: "classes" }, ...items);
}

// Classifying pictures.

function showResult(name, image, content) {
  const result = create("article", { className: "result" }, create("div", {}, create("h3", {}, name), content));
  if (image) result.prepend(create("img", { src: image, alt: name }));
  find("results").prepend(result);
}

async function classify(name, image, ask) {
  try {
    const answer = await ask();
    showResult(name, image || answer.thumbnail, classList(answer.classes));
    return `${name}: ${answer.classes[0].class}, ${percent(answer.classes[0].probability)}`;
  } catch (error) {
    showResult(name, "", create("p", { className: "error" }, error.message));
    return `${name}: ${error.message}`;
  }
}

async function classifyFile(file) {
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  return classify(file.name || "picture", URL.createObjectURL(file), () => request("/api/predict", { method: "POST", body: file, headers }));
}

async function classifyFiles(files) {
  const waiting = [...files].slice(0, MOST_FILES);
  const count = waiting.length, skipped = files.length - count;
  if (!count) return;
  find("status").textContent = count > 1 ? `Classifying ${count} pictures ...` : "Classifying ...";
  let last = "";
  const work = async () => {
    while (waiting.length) last = await classifyFile(waiting.shift());
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  const most = skipped ? `; ${skipped} more are skipped, since ${MOST_FILES} are the most at a time` : "";
  find("status").textContent = count > 1 ? `${count} pictures are done${most}` : last;
}

async function classifyUrl(url) {
  find("status").textContent = "Fetching ...";
  const body = JSON.stringify({ url, thumbnail: true });
  const headers = { "Content-Type": "application/json" };
  find("status").textContent = await classify(url, "", () => request("/api/predict_url", { method: "POST", body, headers }));
}

// Takes what was dropped or pasted, and returns whether it was a picture or a URL of one.
function take(data) {
  const url = (data.getData("text/uri-list") || data.getData("text/plain")).split(/\s/)[0];
  if (data.files.length) classifyFiles(data.files);
  else if (find("url-form") && /^https?:\/\//i.test(url)) classifyUrl(url);
  else return false;
  return true;
}

find("files").addEventListener("change", async (event) => {
  await classifyFiles(event.target.files);
  event.target.value = ""; // so that the same file may be chosen again
});
find("url-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  classifyUrl(find("url").value);
});
document.addEventListener("paste", (event) => {
  if (event.target.closest("input") || !take(event.clipboardData)) return;
  event.preventDefault();
});
// A picture may be dropped anywhere; without preventDefault the browser would open it instead of the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
document.addEventListener("dragleave", () => find("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  if (!take(event.dataTransfer)) find("status").textContent = "This is neither a file nor the address of a picture.";
});

// The test set.

let latest = 0; // number of the search whose pictures are shown

async function showPictures(first) {
  const number = ++latest;
  const query = new URLSearchParams(new FormData(find("filter")));
  for (const [name, value] of [...query]) if (!value) query.delete(name);
  query.set("first", first);
  try {
    const answer = await request(`/api/test_set/pictures?${query}`);
    if (number !== latest) return;
    if (!first) find("pictures").replaceChildren();
    const items = answer.pictures.map((picture) => create("li", {}, pictureButton(picture)));
    find("pictures").append(...items);
    if (first) items[0]?.firstChild.focus();
    const shown = first + items.length;
    find("found").textContent = `${shown.toLocaleString("en")} of ${answer.found.toLocaleString("en")} pictures`;
    find("more").hidden = shown >= answer.found;
    find("more").onclick = () => showPictures(shown);
  } catch (error) {
    find("found").textContent = error.message;
  }
}

const describe = (picture) => (picture.correct ? "correct" : `taken for ${picture.classes[0].class}`);

function pictureButton(picture) {
  const truth = picture.true.join(", ");
  const button = create("button", { type: "button", title: picture.key }, pictureImage(picture, 112));
  button.append(create("span", {}, truth), create("span", {}, describe(picture)), create("span", {}, percent(picture.classes[0].probability)));
  button.addEventListener("click", () => showDetail(picture, truth));
  return button;
}

// Returns the picture, or its key where the picture can't be read.
function pictureImage(picture, side) {
  const image = create("img", { loading: "lazy", alt: `picture ${picture.key}` });
  image.addEventListener("error", () => image.replaceWith(create("span", { className: "missing" }, picture.key)));
  image.src = `/api/test_set/pictures/${picture.number}?side=${side}`;
  return image;
}

function showDetail(picture, truth) {
  find("detail-title").textContent = `${truth}: ${describe(picture)}`;
  find("detail-content").replaceChildren(pictureImage(picture, 512), classList(picture.classes), create("p", {}, create("code", {}, picture.key)));
  find("detail").showModal();
}

if (find("filter")) {
  find("filter").addEventListener("change", () => showPictures(0));
  showPictures(0);
}
for (const place of document.querySelectorAll(".origin")) place.textContent = location.origin;
