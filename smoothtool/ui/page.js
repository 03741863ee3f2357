"use strict";
const $ = (id) => document.getElementById(id);
const state = { forms: [], pictures: [], command: "", chosen: [], points: [], image: null, mask: null, zoom: 1 };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const pictureUrl = (name) => "/pictures/" + encodeURIComponent(name);
const formNow = () => state.forms.find((form) => form.command === state.command);
const wanted = () => (state.command === "interpolate" ? Infinity : 1);

async function ask(url, options = {}) {
  const answer = await fetch(url, options);
  const data = await answer.json().catch(() => ({ error: "the server has stopped" }));
  if (!answer.ok) throw new Error(data.error || answer.statusText);
  return data;
}

function complain(text) { $("problem").textContent = text || ""; }

function showTabs() {
  $("tabs").replaceChildren(...state.forms.map((form) => make("button", {
    type: "button", role: "tab", id: "tab-" + form.command, "aria-selected": String(form.command === state.command),
    onclick: () => open(form.command),
  }, form.title)));
}

function open(command) {
  state.command = command;
  if (state.chosen.length > wanted()) state.chosen = state.chosen.slice(0, wanted());
  $("about").textContent = formNow().about;
  complain("");
  showTabs(); showTray(); showForm(); showStage();
}

function showTray() {
  $("tray").replaceChildren(...state.pictures.map((name) => {
    const at = state.chosen.indexOf(name);
    return make("li", {}, make("button", {
      type: "button", title: name, "aria-label": name, "aria-pressed": String(at >= 0), onclick: () => choose(name),
    }, make("img", { src: pictureUrl(name), alt: "" }), at >= 0 ? make("span", {}, String(at + 1)) : null));
  }));
  $("chosen").textContent = state.chosen.length ? "using: " + state.chosen.join(" → ") : "no picture chosen";
}

function choose(name) {
  const at = state.chosen.indexOf(name);
  if (at >= 0) state.chosen.splice(at, 1);
  else { state.chosen.push(name); if (state.chosen.length > wanted()) state.chosen.shift(); }
  state.points = []; state.mask = null;
  showTray(); showStage();
}

function control(field) {
  const id = "field-" + field.key;
  const common = { id, name: field.key, "data-kind": field.kind, "aria-describedby": id + "-help" };
  if (field.kind === "bool") return make("input", { ...common, type: "checkbox" });
  if (field.kind === "choice") {
    return make("select", common, ...field.choices.map((choice) =>
      make("option", { value: choice, selected: choice === field.default }, choice)));
  }
  if (field.kind === "list") return make("textarea", { ...common, rows: 2, placeholder: "one a line" });
  const shown = field.default === null || field.default === "" ? field.wants : String(field.default);
  return make("input", { ...common, type: "text", placeholder: shown,
    inputmode: field.kind === "int" || field.kind === "float" ? "decimal" : null });
}

function showForm() {
  const fields = formNow().fields.filter((field) => !["image", "images", "mask"].includes(field.key));
  const row = (field) => make("div", { class: field.kind === "bool" ? "field check" : "field" },
    make("label", { for: "field-" + field.key }, field.label), control(field),
    make("p", { class: "help", id: "field-" + field.key + "-help" }, field.help));
  const panels = [...new Set(fields.filter((field) => !field.main).map((field) => field.panel))];
  $("form").replaceChildren(
    make("p", {}, make("button", { class: "go", id: "go" }, "Run")),
    ...fields.filter((field) => field.main).map(row),
    ...panels.map((panel) => make("details", {}, make("summary", {}, panel),
      ...fields.filter((field) => !field.main && field.panel === panel).map(row))));
}

function settings() {
  const given = {};
  for (const field of formNow().fields) {
    const node = $("field-" + field.key);
    if (!node) continue;
    if (field.kind === "bool") { if (node.checked) given[field.key] = true; }
    else if (field.kind === "list") {
      const lines = node.value.split("\n").map((line) => line.trim()).filter(Boolean);
      if (lines.length) given[field.key] = lines;
    } else if (node.value !== "" && node.value !== field.default) given[field.key] = node.value;
  }
  return given;
}

async function upload(blob) {
  return (await ask("/pictures", { method: "POST", body: blob })).name;
}

async function takeFiles(files) {
  complain("");
  for (const file of files) {
    try {
      const name = await upload(file);
      state.pictures.unshift(name);
      choose(name);
    } catch (error) { complain(file.name + ": " + error.message); }
  }
}

async function asked() {
  const pictures = [...state.chosen];
  if (state.command === "drag" && state.mask && pictures.length) {
    const blob = await new Promise((done) => maskPicture().toBlob(done, "image/png"));
    pictures.push(await upload(blob));
  }
  return { method: "POST", body: JSON.stringify({ command: state.command, settings: settings(), pictures }) };
}

async function run(event) {
  event.preventDefault();
  complain("");
  try {
    await ask("/runs", await asked());
    await refresh();
  } catch (error) { complain(error.message); }
}

async function save() {
  complain(""); $("saved").textContent = "";
  try { $("saved").textContent = "saved in " + (await ask("/points", await asked())).saved; }
  catch (error) { complain(error.message); }
}

async function finish() {
  try { await ask("/finish", { method: "POST" }); } catch (error) { complain(error.message); return; }
  clearInterval(state.timer);
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  complain("You can close this page.");
}

function showStage() {
  const drags = state.command === "drag" && state.chosen.length === 1;
  $("stage").hidden = !drags;
  if (!drags) return;
  state.image = new Image();
  state.image.src = pictureUrl(state.chosen[0]);
  state.loaded = state.image.decode();
  state.loaded.then(draw, () => {});
  $("field-point").addEventListener("input", readPoints);
  writePoints();
}

function draw() {
  const canvas = $("canvas"), image = state.image;
  if (!image || !image.naturalWidth) return;
  state.zoom = Math.max(1, Math.round(640 / image.naturalWidth));
  canvas.width = image.naturalWidth * state.zoom; canvas.height = image.naturalHeight * state.zoom;
  canvas.dataset.picture = image.naturalWidth + "x" + image.naturalHeight;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (state.mask) { pen.globalAlpha = 0.5; pen.drawImage(state.mask, 0, 0, canvas.width, canvas.height); pen.globalAlpha = 1; }
  const size = canvas.width / 80, onCanvas = (point) => point.map((number) => (number + 0.5) * state.zoom);
  pen.lineWidth = size / 2;
  for (let at = 0; at < state.points.length; at += 2) {
    const from = state.points[at], to = state.points[at + 1];
    if (to) { pen.strokeStyle = "#fff"; pen.beginPath(); pen.moveTo(...onCanvas(from)); pen.lineTo(...onCanvas(to)); pen.stroke(); }
    for (const [point, colour] of [[from, "#e53935"], [to, "#1e88e5"]]) {
      if (!point) continue;
      pen.fillStyle = colour; pen.beginPath(); pen.arc(...onCanvas(point), size, 0, 7); pen.fill();
      pen.strokeStyle = "#fff"; pen.stroke();
    }
  }
}

function place(event) {
  const canvas = $("canvas"), box = canvas.getBoundingClientRect();
  const along = (at, start, length, size) => Math.min(Math.max((at - start) / length * size, 0), size - 1e-3);
  return [along(event.clientX, box.left, box.width, state.image.naturalWidth),
    along(event.clientY, box.top, box.height, state.image.naturalHeight)];
}

const tool = () => document.querySelector("input[name=tool]:checked").value;

function emptyMask() {
  const { naturalWidth: width, naturalHeight: height } = state.image;
  return make("canvas", { width, height });
}

function paint(from, to) {
  if (!state.mask) state.mask = emptyMask();
  const pen = state.mask.getContext("2d");
  pen.globalCompositeOperation = tool() === "erase" ? "destination-out" : "source-over";
  pen.strokeStyle = "#ff2fd0";  // seen on most pictures; the mask that is sent is white on black
  pen.lineCap = "round";
  pen.lineWidth = $("brush").value / 100 * Math.max(state.mask.width, state.mask.height);
  pen.beginPath(); pen.moveTo(...from); pen.lineTo(to[0] + 0.01, to[1]); pen.stroke();
  draw();
}

function maskPicture() {
  const flat = emptyMask(), pen = flat.getContext("2d");
  pen.drawImage(state.mask, 0, 0);
  for (const [where, colour] of [["source-in", "#fff"], ["destination-over", "#000"]]) {
    pen.globalCompositeOperation = where;
    pen.fillStyle = colour; pen.fillRect(0, 0, flat.width, flat.height);
  }
  return flat;
}

async function showMask(name) {
  const given = new Image();
  given.src = pictureUrl(name);
  await Promise.all([given.decode(), state.loaded]);
  state.mask = emptyMask();
  const pen = state.mask.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(given, 0, 0, state.mask.width, state.mask.height);
  const pixels = pen.getImageData(0, 0, state.mask.width, state.mask.height), levels = pixels.data;
  for (let at = 0; at < levels.length; at += 4) {
    const light = 0.299 * levels[at] + 0.587 * levels[at + 1] + 0.114 * levels[at + 2];
    levels.set([255, 47, 208, light >= 128 ? levels[at + 3] : 0], at);
  }
  pen.putImageData(pixels, 0, 0);
  draw();
}

function readPoints() {
  const numbers = ($("field-point").value.match(/-?[\d.]+,-?[\d.]+/g) || []);
  state.points = numbers.map((pair) => pair.split(",").map(Number));
  draw();
}

function writePoints() {
  const lines = [];
  for (let at = 0; at + 1 < state.points.length; at += 2) lines.push(state.points[at] + ":" + state.points[at + 1]);
  $("field-point").value = lines.join("\n");
  draw();
}

function listen() {
  $("form").addEventListener("submit", run);
  $("file").addEventListener("change", (event) => { takeFiles([...event.target.files]); event.target.value = ""; });
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => {
    event.preventDefault(); $("drop").classList.add("over");
  });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); takeFiles([...event.dataTransfer.files]); });
  const canvas = $("canvas");
  canvas.addEventListener("pointerdown", (event) => {
    const spot = place(event);
    if (tool() === "points") { state.points.push(spot.map(Math.floor)); writePoints(); return; }
    canvas.setPointerCapture(event.pointerId);
    paint(spot, spot);
    state.last = spot;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!state.last) return;
    const spot = place(event);
    paint(state.last, spot);
    state.last = spot;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { state.last = null; });
  $("undo").addEventListener("click", () => { state.points.pop(); writePoints(); });
  $("clear").addEventListener("click", () => { state.points = []; state.mask = null; writePoints(); });
  $("save").addEventListener("click", save);
  $("finish").addEventListener("click", finish);
}

function resultPictures(run) {
  const url = (name) => "/runs/" + run.number + "/files/" + name.split("/").map(encodeURIComponent).join("/");
  const figure = (label, node) => make("figure", {}, node, make("figcaption", {}, label));
  const film = run.files.find((name) => name.endsWith(".webm"));
  const stills = run.files.filter((name) => /^(edited|dragged|before-after|compare|sheet)[^/]*\.(png|jpg|webp|avif)$/.test(name));
  return [
    ...run.pictures.filter(() => !film).map((name) => figure("source", make("img", { src: pictureUrl(name), alt: name }))),
    film ? figure("walk", make("video", { src: url(film), controls: true, loop: true, muted: true })) : null,
    ...stills.map((name) => figure(name, make("img", { src: url(name), alt: name }))),
  ];
}

function card(run) {
  const alive = run.status === "running" || run.status === "waiting";
  return make("article", { "data-status": run.status, "data-run": run.number },
    make("h2", {}, run.number + " · " + run.title + " · " + run.status),
    alive ? make("label", {}, run.stage || "waiting",
      make("progress", run.total ? { value: run.done, max: run.total } : {})) : null,
    make("div", { class: "pictures" }, ...(run.status === "done" ? resultPictures(run).filter(Boolean) : [])),
    run.error ? make("p", { role: "alert" }, run.error) : null,
    run.notes.length ? make("details", {}, make("summary", {}, "Notes"), ...run.notes.map((note) => make("p", {}, note))) : null,
    make("code", {}, run.line),
    make("p", {},
      make("button", { type: "button", onclick: () => navigator.clipboard.writeText(run.line) }, "Copy as command"), " ",
      alive ? make("button", { type: "button", onclick: () => ask("/runs/" + run.number + "/stop", { method: "POST" }) }, "Stop") : null));
}

async function refresh() {
  const { runs } = await ask("/runs");
  for (const run of runs) {
    const text = JSON.stringify(run), old = document.querySelector(`article[data-run="${run.number}"]`);
    if (old && old.dataset.text === text) continue;
    const fresh = card(run);
    fresh.dataset.text = text;
    if (old) old.replaceWith(fresh); else $("results").prepend(fresh);
  }
}

async function showStart(start) {
  $("finish").hidden = false;
  for (const name of start.pictures) choose(name);
  for (const [key, value] of Object.entries(start.settings)) {
    const node = $("field-" + key);
    if (!node || value === null) continue;
    if (node.type === "checkbox") node.checked = value;
    else node.value = Array.isArray(value) ? value.join("\n") : value;
  }
  if ($("field-point").value) readPoints();
  if (start.mask) await showMask(start.mask);
}

async function begin() {
  const data = await ask("/state");
  state.forms = data.forms; state.pictures = data.pictures;
  listen();
  open(data.start ? data.start.command : state.forms[0].command);
  if (data.start) await showStart(data.start);
  await refresh();
  state.timer = setInterval(() => refresh().catch((error) => complain(error.message)), 500);
}
begin().catch((error) => complain(error.message));
