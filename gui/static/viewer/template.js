// What the viewer looks like, in Vue's language and with Quasar's components, which NiceGUI brings.
export const template = `
<div class="lls-viewer">
  <div class="lls-bar" role="toolbar" aria-label="View">
    <div class="lls-group">
      <q-btn v-for="l in layouts" :key="l.value" flat dense no-caps :icon="l.icon" :label="l.label"
        :class="{ 'lls-on': layout === l.value }" :aria-pressed="layout === l.value" :aria-label="l.tip"
        @click="layout = l.value"><q-tooltip>{{ l.tip }}</q-tooltip></q-btn>
    </div>
    <div class="lls-group" v-if="layout === 'compare'">
      <q-btn v-for="p in ['axial', 'coronal', 'sagittal']" :key="p" flat dense no-caps :label="capital(p)"
        :class="{ 'lls-on': comparedPlane === p }" :aria-pressed="comparedPlane === p" @click="comparedPlane = p" />
    </div>
    <div class="lls-group">
      <q-btn v-for="s in ['both', 'scan', 'mask']" :key="s" flat dense no-caps :label="capital(s)"
        :class="{ 'lls-on': show === s }" :aria-pressed="show === s" @click="show = s" />
    </div>
    <div class="lls-space"></div>
    <span class="lls-readout" aria-live="off">{{ readout }}</span>
    <q-btn flat dense no-caps :label="radiological ? 'Radiological' : 'Neurological'" @click="radiological = !radiological">
      <q-tooltip>{{ radiological ? "The patient's right is on the left" : "The patient's right is on the right" }}</q-tooltip>
    </q-btn>
    <q-btn flat dense icon="fit_screen" aria-label="Fit the pictures" @click="fit"><q-tooltip>Fit the pictures (0)</q-tooltip></q-btn>
    <q-btn flat dense icon="photo_camera" aria-label="Save the picture as PNG" @click="savePicture"><q-tooltip>Save the picture as PNG</q-tooltip></q-btn>
    <q-btn flat dense icon="keyboard" aria-label="Keys" @click="help = true"><q-tooltip>Keys (?)</q-tooltip></q-btn>
  </div>

  <div class="lls-problem" v-if="problem" role="alert">{{ problem }}<q-btn flat dense icon="close" aria-label="Close" @click="problem = ''" /></div>

  <div class="lls-body">
    <div :class="['lls-panes', 'lls-' + layout, { 'lls-tall': tall }]">
      <section v-for="pane in panes" :key="pane.id" :class="['lls-pane', 'lls-pane-' + pane.id]">
        <header>
          <b>{{ capital(pane.title) }}</b>
          <span v-if="pane.id === 'difference'" class="lls-key"><i class="lls-first"></i>labels only<i class="lls-second"></i>other only<i class="lls-third"></i>another bone</span>
          <span v-else>slice {{ stored(pane.plane) }} <small>of 0 to {{ count(pane.plane) - 1 }}</small></span>
        </header>
        <canvas :ref="'canvas-' + pane.id" tabindex="0" role="img"
          :aria-label="pane.title + ' plane, slice ' + stored(pane.plane)" :class="{ 'lls-draws': tool !== 'look' && pane.layer === 'labels' }"
          @pointerdown="onDown($event, pane)" @pointermove="onMove($event, pane)" @pointerup="onUp" @pointercancel="onUp"
          @pointerleave="onLeaveCanvas" @wheel.prevent="onWheel($event, pane)" @contextmenu.prevent
          @dblclick="tool === 'look' && (layout = layout === 'all' ? pane.plane : 'all')" @keydown="onKey($event, pane)"></canvas>
        <input type="range" min="0" :max="count(pane.plane) - 1" :value="level(pane.plane)"
          :aria-label="pane.title + ' slice'" :aria-valuetext="'slice ' + stored(pane.plane)"
          @input="active = pane.plane; setLevel(pane.plane, +$event.target.value)">
      </section>
      <section class="lls-pane lls-3d" v-show="layout === 'all' || layout === 'surfaces'">
        <header><b>Bones</b>
          <q-btn v-if="status.stale" flat dense no-caps size="sm" icon="refresh" label="Update" @click="drawBones" />
          <span class="lls-space"></span>
          <q-btn flat dense size="sm" icon="restart_alt" aria-label="Look from the front" @click="bones.reset()"><q-tooltip>Look from the front</q-tooltip></q-btn>
        </header>
        <canvas ref="bones" tabindex="0" role="img" aria-label="Surfaces of the bones" class="lls-turns"></canvas>
      </section>
    </div>

    <aside class="lls-side">
      <section>
        <h3>Bones</h3>
        <div v-for="b in facts.bones" :key="b.value" class="lls-bone" :class="{ 'lls-chosen': editable && b.value === bone, 'lls-hidden': hidden.includes(b.value) }">
          <button class="lls-name" @click="bone = b.value" :aria-pressed="b.value === bone">
            <i :style="{ background: 'rgb(' + b.colour.join() + ')' }"></i>{{ b.name }}
            <small v-if="facts.compare">{{ scores[b.value] === undefined ? '' : 'DSC ' + scores[b.value].toFixed(3) }}</small>
          </button>
          <q-btn flat dense round size="sm" icon="filter_center_focus" :aria-label="b.name + ' alone'" @click="only(b.value)"><q-tooltip>This bone alone</q-tooltip></q-btn>
          <q-btn flat dense round size="sm" :icon="hidden.includes(b.value) ? 'visibility_off' : 'visibility'" :aria-label="(hidden.includes(b.value) ? 'Show ' : 'Hide ') + b.name" @click="toggle(b.value)" />
        </div>
      </section>

      <section v-if="editable" class="lls-paint">
        <h3>Correct</h3>
        <div class="lls-group lls-wide">
          <q-btn v-for="t in [['look', 'near_me', 'Look (N)'], ['paint', 'brush', 'Paint (B)'], ['erase', 'auto_fix_normal', 'Erase (E)']]" :key="t[0]"
            flat dense no-caps :icon="t[1]" :label="capital(t[0])" :class="{ 'lls-on': tool === t[0] }" :aria-pressed="tool === t[0]" @click="tool = t[0]"><q-tooltip>{{ t[2] }}</q-tooltip></q-btn>
        </div>
        <label>Brush <b>{{ radius }} mm</b></label>
        <q-slider v-model="radius" :min="0.5" :max="40" :step="0.5" dense aria-label="Brush radius in mm" />
        <q-checkbox v-model="over" dense size="sm" label="Paint over other bones" />
        <div class="lls-group lls-wide">
          <q-btn flat dense icon="undo" aria-label="Undo" :disable="!status.can_undo || !!busy" @click="ask('undo')"><q-tooltip>Undo (Ctrl + Z)</q-tooltip></q-btn>
          <q-btn flat dense icon="redo" aria-label="Redo" :disable="!status.can_redo || !!busy" @click="ask('redo')"><q-tooltip>Redo (Ctrl + Y)</q-tooltip></q-btn>
          <q-btn flat dense no-caps icon="layers" label="Fill between" :loading="busy === 'fill'" @click="ask('fill')"><q-tooltip>Correct the bone on two slices of a plane; this draws it anew on those between</q-tooltip></q-btn>
        </div>
        <q-btn unelevated no-caps color="primary" icon="save" class="lls-save" :label="status.unsaved ? 'Save correction' : 'Nothing to save'" :disable="!status.unsaved || !!busy" :loading="busy === 'save'" @click="ask('save')" />
        <p role="status">{{ status.message }}</p>
      </section>

      <section>
        <h3>Labels</h3>
        <label>Opacity <b>{{ Math.round(opacity * 100) }} %</b></label>
        <q-slider v-model="opacity" :min="0" :max="1" :step="0.05" dense aria-label="Opacity of the labels" />
        <q-checkbox v-model="contours" dense size="sm" label="Contours" />
        <q-checkbox v-model="crosshair" dense size="sm" label="Crosshair" />
      </section>

      <section>
        <h3>Scan <q-btn flat dense round size="xs" icon="restart_alt" aria-label="Reset brightness" @click="resetWindow" /></h3>
        <label>Window {{ Math.round(greys.max - greys.min) }}, level {{ Math.round((greys.max + greys.min) / 2) }}</label>
        <q-range v-model="greys" :min="facts.low" :max="facts.top" :step="(facts.top - facts.low) / 1000" dense aria-label="Darkest and brightest value" />
        <q-checkbox v-model="smooth" dense size="sm" label="Smooth pixels" />
      </section>
    </aside>
  </div>

  <q-dialog v-model="help"><q-card class="lls-help"><h3>Keys and mouse</h3><table><tr v-for="k in keys" :key="k[0]"><th>{{ k[0] }}</th><td>{{ k[1] }}</td></tr></table></q-card></q-dialog>
</div>`;
