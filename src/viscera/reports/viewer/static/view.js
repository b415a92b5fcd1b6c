/* The page of `viscera view`: NiiVue draws, this file holds the controls and counts Dice and IoU of the slice.
   All label arrays run feet to head, back to front, left to right (NIfTI's RAS+), x fastest; label 0 is background. */
"use strict";

const scene = JSON.parse(document.getElementById("scene").textContent);
const [depth, rows, columns] = scene.shape;
const compared = scene.layers.includes("truth");
const PLANES = { axial: 0, coronal: 1, sagittal: 2 }; // NiiVue's numbers, and our axes z, y, x
const HEADER_BYTES = 352; // of the NIfTI files that viscera writes
const LABEL_INTENT = 1002; // makes NiiVue use its shader with outlines
const MOST_3D_VOXELS = 200; // along an axis of the 3D picture
const FINEST_3D_MM = 1.4;
const BAR_MM = 100;
const MOST_PLAIN_LABELS = 100; // the shader without outlines confuses the lowest of more than 127 labels

const state = { layer: "prediction", off: new Set(), opacity: 0.45, outline: false, view: "all", voxel: scene.start };
const arrays = {}; // {ct: Int16Array, prediction: Uint8Array, ...}
const element = id => document.getElementById(id);
const say = text => { element("message").textContent = text; element("message").hidden = !text; };

/* --- reading ------------------------------------------------------------------------------------------------- */

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Return the unpacked NIfTI file of a volume, from the page or from beside it. */
async function readVolume(name) {
  const holder = element("volume-" + name);
  let packed;
  if (holder) {
    packed = new Blob([fromBase64(holder.textContent)]).stream();
    holder.remove(); // its text is as large as the scan
  } else {
    const answer = await fetch(name + ".nii.gz");
    if (!answer.ok) throw new Error(`${name}.nii.gz: ${answer.status} ${answer.statusText}`);
    packed = answer.body;
  }
  return new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/* --- what is painted ----------------------------------------------------------------------------------------- */

/** Return NiiVue's table of colours for the present layer: one entry per label, 0 being clear. */
function colourTable() {
  const entries = state.layer === "agreement" ? scene.kinds.map(kind => [kind.code, kind.colour]) : scene.organs.map(organ => [organ.value, organ.colour]);
  const length = Math.max(2, ...entries.map(([value]) => value + 1));
  const [R, G, B] = [0, 1, 2].map(() => Array(length).fill(0));
  for (const [value, colour] of entries) [R[value], G[value], B[value]] = colour;
  return { R, G, B, A: R.map((_, value) => value ? 255 : 0), I: R.map((_, value) => value) };
}

const labelIntent = () => state.outline || scene.organs.length > MOST_PLAIN_LABELS ? LABEL_INTENT : 0;
const painted = () => arrays.painted ??= new Uint8Array(arrays.prediction.length);

/** Return the present layer's labels without the organs that are switched off. */
function shownLabels() {
  const source = arrays[state.layer];
  if (!state.off.size) return source;
  const on = new Uint8Array(256).fill(1), target = painted();
  on[0] = 0;
  for (const value of state.off) on[value] = 0;
  if (state.layer === "agreement") {
    const { prediction, truth } = arrays;
    for (let i = 0; i < target.length; i++) target[i] = on[prediction[i]] | on[truth[i]] ? source[i] : 0;
  } else {
    for (let i = 0; i < target.length; i++) target[i] = on[source[i]] ? source[i] : 0;
  }
  return target;
}

/** Return every n-th voxel of labels, small enough to be turned around smoothly: {labels, shape, spacing}. */
function thinned(labels) {
  const steps = scene.shape.map((count, axis) => Math.max(Math.ceil(count / MOST_3D_VOXELS), Math.round(FINEST_3D_MM / scene.spacing_mm[axis]), 1));
  const shape = scene.shape.map((count, axis) => Math.ceil(count / steps[axis]));
  const thin = new Uint8Array(shape[0] * shape[1] * shape[2]);
  let to = 0;
  for (let z = 0; z < depth; z += steps[0])
    for (let y = 0; y < rows; y += steps[1])
      for (let x = 0, from = (z * rows + y) * columns; x < columns; x += steps[2]) thin[to++] = labels[from + x];
  return { labels: thin, shape, spacing: scene.spacing_mm.map((mm, axis) => mm * steps[axis]) };
}

/* --- scores of a slice --------------------------------------------------------------------------------------- */

/** Return {value: {dice, iou}} of an axial slice, NaN where neither map shows the organ; null without truth.
    Voxels whose agreement is "not annotated" do not count. */
function sliceScores(z) {
  if (!compared) return null;
  const size = rows * columns, begin = z * size;
  const [both, inTruth, inPrediction] = [0, 1, 2].map(() => new Uint32Array(256));
  for (let i = begin; i < begin + size; i++) {
    const a = arrays.truth[i], b = arrays.prediction[i];
    if (!(a | b) || arrays.agreement[i] === scene.unjudged) continue;
    inTruth[a]++;
    inPrediction[b]++;
    if (a === b) both[a]++;
  }
  const scores = {};
  for (const { value, annotated } of scene.organs) {
    if (!annotated) continue;
    const sum = inTruth[value] + inPrediction[value];
    scores[value] = { dice: 2 * both[value] / sum, iou: both[value] / (sum - both[value]) };
  }
  return scores;
}

const shown = (number, digits) => number === null || Number.isNaN(number) ? "–" : number.toFixed(digits);
const volume = ml => ml === null ? "–" : ml.toFixed(ml < 10 ? 1 : 0);

/* --- the page ------------------------------------------------------------------------------------------------ */

function swatch(colour) {
  const patch = document.createElement("span");
  patch.className = "swatch";
  patch.style.background = `rgb(${colour.join(",")})`;
  return patch;
}

function fillTable(changed) {
  const body = element("organs").tBodies[0];
  for (const organ of scene.organs) {
    const row = body.insertRow(), box = document.createElement("input"), label = document.createElement("label");
    Object.assign(box, { type: "checkbox", checked: true, id: "organ-" + organ.value });
    label.append(box, swatch(organ.colour), organ.name.replaceAll("_", " "));
    row.insertCell().append(label);
    row.classList.toggle("absent", !organ.prediction_ml && !organ.truth_ml);
    row.insertCell().textContent = volume(organ.prediction_ml);
    if (compared) {
      row.insertCell().textContent = volume(organ.truth_ml);
      for (const number of [organ.dice, organ.iou]) row.insertCell().textContent = shown(number, 2);
      for (const kind of ["dice", "iou"]) {
        const cell = row.insertCell();
        [cell.className, cell.id] = ["now", `slice-${kind}-${organ.value}`];
      }
    }
    box.onchange = () => { state.off[box.checked ? "delete" : "add"](organ.value); changed(); };
  }
  if (!compared) return;
  for (const kind of scene.kinds) {
    const item = document.createElement("li");
    item.append(swatch(kind.colour), kind.name);
    element("kinds").append(item);
  }
}

function showPlace() {
  const [z, y, x] = state.voxel;
  for (const [plane, axis] of Object.entries(PLANES)) {
    const mm = scene.starts_mm[axis] + scene.steps_mm[axis] * state.voxel[axis];
    element("caption-" + plane).firstChild.textContent = `${plane} ${state.voxel[axis] + 1}/${scene.shape[axis]}   ${"zyx"[axis]} = ${mm.toFixed(0)} mm`;
  }
  const at = (z * rows + y) * columns + x;
  const name = layer => scene.organs.find(organ => organ.value === arrays[layer][at])?.name.replaceAll("_", " ") ?? "no organ";
  const labels = compared ? `prediction: ${name("prediction")}, truth: ${name("truth")}` : name("prediction");
  element("here").textContent = `At the cross: ${arrays.ct[at]} HU; ${labels}`;
  const scores = sliceScores(z);
  for (const value in scores ?? {})
    for (const kind of ["dice", "iou"]) element(`slice-${kind}-${value}`).textContent = shown(scores[value][kind], 2);
}

/** Mark the pressed button of a group. */
function press(group, pressed) {
  for (const button of element(group).children) button.setAttribute("aria-pressed", String(pressed(button)));
}

/* --- drawing ------------------------------------------------------------------------------------------------- */

async function start() {
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
  const { Niivue, NVImage } = niivue;
  const buffers = {};
  for (const name of ["ct", ...scene.layers]) {
    buffers[name] = await readVolume(name);
    const kind = name === "ct" ? Int16Array : Uint8Array;
    arrays[name] = new kind(buffers[name], HEADER_BYTES, depth * rows * columns);
  }

  const common = { backColor: [0, 0, 0, 1], dragAndDropEnabled: false, logLevel: "error", viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", fontColor: [0.85, 0.88, 0.92, 1], loadingText: "" };
  const slices = new Niivue({ ...common, isRadiologicalConvention: true, showAllOrientationMarkers: true, sagittalNoseLeft: true, multiplanarShowRender: 0, crosshairColor: [0.35, 0.65, 1, 0.75], crosshairWidth: 1, crosshairWidthUnit: "mm", crosshairGap: 12 });
  const organs = new Niivue({ ...common, isOrientCube: true, show3Dcrosshair: false, crosshairWidth: 0 });
  await slices.attachToCanvas(element("slices"));
  await organs.attachToCanvas(element("organs3d"));

  // For 3D, NiiVue derives surfaces from the scan at each change of window. Here the scan is drawn in slices only: a shader
  // that does next to nothing takes their place, which without a graphics card saves most of the time.
  slices.blurShader = slices.sobelFirstOrderShader = slices.passThroughShader;

  const [low, high] = scene.window;
  const ct = await NVImage.new(buffers.ct, "ct.nii", "gray", 1, null, low, high);
  const labels = await NVImage.new(buffers.prediction, "labels.nii", "gray", state.opacity);
  labels.hdr.intent_code = labelIntent();
  labels.setColormapLabel(colourTable());
  slices.volumes.push(ct); // both are uploaded by the next line, once
  slices.addVolume(labels);

  const thin = thinned(arrays.prediction), [dz, dy, dx] = thin.spacing;
  const grid = NVImage.createNiftiArray([...thin.shape].reverse(), [dx, dy, dz], [dx, 0, 0, 0, 0, dy, 0, 0, 0, 0, dz, 0, 0, 0, 0, 1], 2, thin.labels);
  const solid = await NVImage.new(grid.buffer, "organs.nii", "gray", 1);
  solid.hdr.intent_code = LABEL_INTENT;
  solid.setColormapLabel(colourTable());
  organs.setSliceType(organs.sliceTypeRender);
  organs.setRenderAzimuthElevation(180, 10); // the patient's front, right on the left
  await organs.setVolumeRenderIllumination(0.6);
  organs.addVolume(solid);

  /** Paint the labels on the slices anew, after a change of opacity, outline or what paint says. */
  function paintSlices() {
    labels.hdr.intent_code = labelIntent();
    labels.opacity = state.opacity;
    slices.opts.atlasOutline = state.outline ? 1 : 0;
    slices.refreshLayers(labels, 1);
    slices.drawScene();
  }

  /** Paint the labels everywhere, after a change of layer or organs. */
  function paint() {
    for (const [index, row] of [...element("organs").tBodies[0].rows].entries()) {
      const off = state.off.has(scene.organs[index].value);
      row.classList.toggle("off", off);
      row.querySelector("input").checked = !off;
    }
    labels.img = shownLabels();
    labels.setColormapLabel(colourTable());
    paintSlices();
    solid.img = thinned(labels.img).labels;
    solid.setColormapLabel(colourTable());
    organs.updateGLVolume();
  }

  function setWindow(low, high) {
    if (!(low < high)) return;
    [ct.cal_min, ct.cal_max] = [low, high];
    slices.updateGLVolume();
    showWindow();
  }

  function showWindow() {
    [element("low").value, element("high").value] = [Math.round(ct.cal_min), Math.round(ct.cal_max)];
    press("windows", button => +button.dataset.low === ct.cal_min && +button.dataset.high === ct.cal_max);
  }

  /** Go to a voxel (z, y, x). */
  function goTo(voxel) {
    const [z, y, x] = voxel.map((index, axis) => Math.min(Math.max(Math.round(index), 0), scene.shape[axis] - 1));
    slices.scene.crosshairPos = slices.vox2frac([x, y, z]);
    slices.drawScene();
    slices.createOnLocationChange();
  }

  const scroll = by => goTo([state.voxel[0] + by, state.voxel[1], state.voxel[2]]);

  /** Draw a bar of BAR_MM in each view, as long as NiiVue has scaled the view. */
  function showScale() {
    for (const { axCorSag, leftTopWidthHeight: [, , width], fovMM: [widthMm] } of slices.screenSlices) {
      const plane = Object.keys(PLANES).find(name => PLANES[name] === axCorSag);
      const pixelsPerMm = width / Math.abs(widthMm) / slices.uiData.dpr; // negative where NiiVue mirrors the view
      if (plane) element("caption-" + plane).querySelector("i").style.width = `${BAR_MM * pixelsPerMm}px`;
    }
  }

  function setView(view) {
    state.view = element("stage").dataset.view = view;
    press("views", button => button.dataset.view === view);
    const quarter = [[0, 0, 0.495, 0.49], [0.505, 0, 0.495, 0.49], [0, 0.51, 0.495, 0.49]];
    const planes = view in PLANES ? [[PLANES[view], [0, 0, 1, 1]]] : quarter.map((position, plane) => [plane, position]);
    slices.setCustomLayout(planes.map(([sliceType, position]) => ({ sliceType, position })));
    slices.resizeListener();
    organs.resizeListener();
    showScale();
  }

  function setLayer(layer) {
    state.layer = layer;
    press("layers", button => button.dataset.layer === layer);
    element("kinds").hidden = layer !== "agreement";
    paint();
  }

  slices.onLocationChange = place => { state.voxel = [place.vox[2], place.vox[1], place.vox[0]].map(Math.round); showPlace(); };
  slices.onIntensityChange = showWindow;
  element("opacity").oninput = event => { state.opacity = event.target.value / 100; paintSlices(); };
  element("outline").onchange = event => { state.outline = event.target.checked; paintSlices(); };
  for (const id of ["low", "high"]) element(id).onchange = () => setWindow(+element("low").value, +element("high").value);
  for (const button of element("windows").children) button.onclick = () => setWindow(+button.dataset.low, +button.dataset.high);
  for (const button of element("views").children) button.onclick = () => setView(button.dataset.view);
  for (const button of element("layers")?.children ?? []) button.onclick = () => setLayer(button.dataset.layer);
  element("every").onclick = () => { state.off.clear(); paint(); };
  element("none").onclick = () => { state.off = new Set(scene.organs.map(organ => organ.value)); paint(); };
  const keys = { ArrowUp: () => scroll(1), ArrowDown: () => scroll(-1), PageUp: () => scroll(10), PageDown: () => scroll(-10) };
  scene.windows.forEach(([, low, high], index) => { keys[index + 1] = () => setWindow(low, high); });
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input[type=number], input[type=range]") || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  new ResizeObserver(() => requestAnimationFrame(showScale)).observe(element("stage"));
  fillTable(paint);
  setView(scene.view);
  goTo(scene.start);
  showWindow();
  say("");
  Object.assign(window.viscera, { views: { slices, organs }, slice: () => state.voxel[0], voxel: () => state.voxel, goTo, scroll, setWindow, setView, setLayer, sliceScores, arrays, state });
  requestAnimationFrame(() => { window.viscera.ready = true; element("stage").dataset.ready = "yes"; });
}

window.viscera = { ready: false, scene };
start().catch(error => { say(`The scan cannot be shown: ${error.message}. A present-day browser with WebGL 2 is needed.`); window.viscera.error = String(error); element("stage").dataset.ready = "no"; throw error; });
