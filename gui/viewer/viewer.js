// The viewer: planes of a scan with labels, a pane for surfaces, bones, comparison, painting.
import { BoneView, PLANES, PlaneView, SliceCache, drawing, paintLine, pointing, template } from "lls-viewer";

const AXIS = { sagittal: 0, coronal: 1, axial: 2 };
const CACHE_BYTES = 400 << 20, AHEAD = 10;
const LAYOUTS = [
  { value: "all", icon: "grid_view", tip: "Three planes and surfaces (1)" },
  { value: "axial", label: "Axial", tip: "Axial plane alone (2)" },
  { value: "coronal", label: "Coronal", tip: "Coronal plane alone (3)" },
  { value: "sagittal", label: "Sagittal", tip: "Sagittal plane alone (4)" },
  { value: "surfaces", label: "3D", tip: "Surfaces alone (5)" },
];
const KEYS = [
  ["Wheel, ↑ ↓, Page ↑ ↓", "next and previous slice; ten slices"],
  ["Click, drag", "move the crosshair"],
  ["Drag with the right button", "brightness and contrast"],
  ["Ctrl + wheel, + −", "zoom"],
  ["Shift + drag, middle button", "move the picture"],
  ["Double click, 1 to 5", "one plane large, all planes"],
  ["Space", "labels on and off"],
  ["O", "contours on and off"],
  ["0", "fit the pictures"],
  ["B, E, N", "paint, erase, look"],
  ["[ ]", "smaller and larger brush"],
  ["Ctrl + Z, Ctrl + Y", "undo, redo"],
];

export default {
  template,
  props: { facts: Object, base: String, editable: Boolean },

  data() {
    return {
      cursor: [...this.facts.start],
      layout: "all",
      comparedPlane: "axial",
      greys: { min: this.facts.window[0], max: this.facts.window[1] },
      show: "both",
      opacity: 0.35,
      contours: true,
      smooth: true,
      radiological: true,
      crosshair: true,
      hidden: [],
      bone: this.facts.bones[0]?.value,
      tool: "look",
      radius: 4,
      over: false,
      status: { can_undo: false, can_redo: false, unsaved: false, stale: false, message: "" },
      scores: this.facts.scores,
      busy: "",
      readout: "",
      problem: "",
      help: false,
      layouts: this.facts.compare
        ? [...LAYOUTS, { value: "compare", label: "Compare", tip: "Two label maps and where they differ (6)" }]
        : LAYOUTS,
      keys: KEYS,
    };
  },

  computed: {
    panes() {
      if (this.layout === "compare") {
        return [
          { id: "first", layer: "labels", title: "Labels" },
          { id: "second", layer: "other", title: "Compared with" },
          { id: "difference", layer: "difference", title: "Difference" },
        ].map((pane) => ({ ...pane, plane: this.comparedPlane }));
      }
      const planes = this.layout === "all" ? PLANES : PLANES.filter((plane) => plane === this.layout);
      return planes.map((plane) => ({ id: plane, plane, layer: "labels", title: plane }));
    },
    tall() { // legs are: their two long planes take the whole height then
      const [wide, , tall] = this.facts.shape.map((n, i) => n * this.facts.sizes[i]);
      return tall > 1.3 * wide;
    },
    looks() { // all that a redraw depends on and the user sets
      return [this.greys, this.show, this.opacity, this.contours, this.smooth, this.radiological,
        this.crosshair, this.hidden, this.bone, this.radius, this.tool];
    },
  },

  watch: {
    looks: { deep: true, handler() { this.makeTables(); this.draw(); } },
    panes() { this.$nextTick(this.attach); },
    cursor() { this.fetch(); this.draw(); this.markBones(); },
    crosshair() { this.markBones(); },
  },

  created() {
    const [l, p, s] = this.facts.shape, [ml, mp, ms] = this.facts.sizes;
    this.views = {
      axial: new PlaneView("axial", [l, p], [ml, mp]),
      coronal: new PlaneView("coronal", [l, s], [ml, ms]),
      sagittal: new PlaneView("sagittal", [p, s], [mp, ms]),
    };
    this.cache = new SliceCache(
      `${window.path_prefix ?? ""}${this.base}`, CACHE_BYTES, () => this.draw(), (text) => (this.problem = text),
    );
    this.layers = new Map(); // pane -> what it is drawn from
    this.pointer = null;
    this.ahead = 1;
    this.makeTables();
  },

  mounted() {
    this.observer = new ResizeObserver(() => { this.draw(); this.bones.draw(); });
    const [wide, , tall] = this.facts.shape.map((n, i) => n * this.facts.sizes[i]);
    this.bones = new BoneView(this.$refs.bones, [0.6 * wide, tall]);
    this.drawn = {}; // bone -> version of the labels that its surface was made of
    this.attach();
    this.fetch();
    this.drawBones();
    this.markBones();
    this.onLeave = (event) => { if (this.status.unsaved) event.preventDefault(); };
    window.addEventListener("beforeunload", this.onLeave);
  },

  beforeUnmount() {
    this.observer.disconnect();
    window.removeEventListener("beforeunload", this.onLeave);
    this.cache.want([]);
  },

  methods: {
    ...drawing,
    ...pointing,

    // ---- called by the server

    edited(status) {
      const changed = status.version !== this.status.version;
      const stale = Object.entries(status.changed_at).some(([value, version]) => (this.drawn[value] ?? 0) < version);
      this.status = { ...status, stale };
      this.busy = "";
      if (status.scores) this.scores = status.scores;
      if (!changed && !status.message) return; // refused: what was shown at once is not so
      if (this.stroke) return (this.outdated = true);
      this.cache.outdate("labels");
      this.fetch();
    },

    // ---- planes and slices

    level(plane) { return this.cursor[AXIS[plane]]; },
    count(plane) { return this.facts.shape[AXIS[plane]]; },
    stored(plane) {
      const level = this.level(plane);
      return this.facts.flipped[AXIS[plane]] ? this.count(plane) - 1 - level : level;
    },
    setLevel(plane, level) {
      const axis = AXIS[plane], next = Math.min(this.count(plane) - 1, Math.max(0, Math.round(level)));
      if (next === this.cursor[axis]) return;
      this.ahead = Math.sign(next - this.cursor[axis]);
      this.cursor = this.cursor.map((n, i) => (i === axis ? next : n));
    },
    // Crosshair as pixel of a plane, and back.
    onPlane(plane) {
      const [l, p, s] = this.cursor, down = this.facts.shape[2] - 1 - s;
      return { axial: [l, p], coronal: [l, down], sagittal: [p, down] }[plane];
    },
    voxel(plane, column, row) {
      const [l, p, s] = this.cursor, up = this.facts.shape[2] - 1 - row;
      const index = { axial: [column, row, s], coronal: [column, p, up], sagittal: [l, column, up] }[plane];
      return index.map((n, i) => Math.min(this.facts.shape[i] - 1, Math.max(0, n)));
    },

    fetch() {
      const layers = ["image", "labels", ...(this.layout === "compare" ? ["other"] : [])];
      const planes = this.panes.map((pane) => pane.plane).filter((p, i, all) => all.indexOf(p) === i);
      const wanted = [];
      for (const plane of planes) for (const layer of layers) wanted.push([layer, plane, this.level(plane)]);
      const steps = [];
      for (let n = 1; n <= AHEAD; n++) steps.push(n * this.ahead, ...(n <= 2 ? [-n * this.ahead] : []));
      const moving = this.active && planes.includes(this.active) ? this.active : planes[0];
      for (const step of moving ? steps : []) {
        const level = this.level(moving) + step;
        if (level < 0 || level >= this.count(moving)) continue;
        for (const layer of layers) wanted.push([layer, moving, level]);
      }
      this.cache.want(wanted);
    },

    // ---- bones

    toggle(value) {
      this.hidden = this.hidden.includes(value) ? this.hidden.filter((v) => v !== value) : [...this.hidden, value];
      this.tellShown();
    },
    // One bone alone; again: all.
    only(value) {
      const others = this.facts.bones.map((b) => b.value).filter((v) => v !== value);
      const alone = others.every((v) => this.hidden.includes(v)) && !this.hidden.includes(value);
      this.hidden = alone ? [] : others;
      this.bone = value;
      this.tellShown();
    },
    tellShown() { this.bones.show(this.facts.bones.map((b) => b.value).filter((v) => !this.hidden.includes(v))); },

    // ---- painting

    beginStroke(pane) {
      this.stroke = {
        plane: pane.plane, level: this.level(pane.plane), points: [], radius_mm: this.radius, value: this.bone,
        erase: this.tool === "erase", over: this.over,
      };
      if (this.hidden.includes(this.bone)) this.toggle(this.bone);
    },

    continueStroke(event, pane) {
      const { stroke } = this, from = stroke.points.length, view = this.views[pane.plane];
      for (const part of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const { column, row } = this.place(part, pane);
        stroke.points.push([+(column - 0.5).toFixed(2), +(row - 0.5).toFixed(2)]);
      }
      const labels = this.cache.get("labels", stroke.plane, stroke.level);
      if (!labels) return;
      paintLine(labels, ...view.pixels, view.mm, stroke, from);
      for (const tools of this.layers.values()) {
        tools.labels.forget();
        tools.outlined = null;
      }
    },

    endStroke() {
      this.$emit("edit", { kind: "stroke", ...this.stroke });
      this.stroke = null;
      if (!this.outdated) return;
      this.outdated = false;
      this.cache.outdate("labels");
    },

    ask(kind) {
      if (this.busy) return;
      if (kind === "fill" || kind === "save") this.busy = kind;
      this.$emit("edit", { kind, plane: this.active ?? "axial", value: this.bone, over: this.over });
    },

    // ---- the picture

    savePicture() {
      const canvases = [...this.panes.map((pane) => this.canvas(pane)), this.$refs.bones].filter((c) => c?.clientWidth);
      const boxes = canvases.map((canvas) => canvas.getBoundingClientRect()), ratio = window.devicePixelRatio || 1;
      const [left, top] = [Math.min(...boxes.map((b) => b.left)), Math.min(...boxes.map((b) => b.top))];
      const page = document.createElement("canvas");
      page.width = (Math.max(...boxes.map((b) => b.right)) - left) * ratio;
      page.height = (Math.max(...boxes.map((b) => b.bottom)) - top) * ratio;
      const context = page.getContext("2d");
      context.fillStyle = "#0d1117";
      context.fillRect(0, 0, page.width, page.height);
      canvases.forEach((canvas, i) =>
        context.drawImage(canvas, (boxes[i].left - left) * ratio, (boxes[i].top - top) * ratio));
      const link = document.createElement("a");
      const plane = this.layout === "compare" ? this.comparedPlane : this.layout;
      const where = PLANES.includes(plane) ? `${plane}-${this.stored(plane)}` : plane;
      link.download = `${this.facts.name}_${where}.png`;
      page.toBlob((blob) => {
        link.href = URL.createObjectURL(blob);
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      });
    },

    capital(text) { return text.charAt(0).toUpperCase() + text.slice(1); },
  },
};
