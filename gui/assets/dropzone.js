// A place to drop files or a whole folder, which go to the page's own server. What is dropped beside it counts
// too: drop.js has the browser stay on the page.
export default {
  template: `
    <div class="dropzone" :class="{over, busy: total > 0}">
      <div v-if="!total" class="dropzone-words">
        <i class="material-icons" aria-hidden="true">upload_file</i>
        <div><b>{{ words }}</b><br>
          <button type="button" class="linklike" @click="$refs.files.click()">Choose files</button> or
          <button type="button" class="linklike" @click="$refs.folder.click()">a folder</button>
          <span class="muted"> · {{ hint }}</span></div>
      </div>
      <div v-else class="dropzone-words" role="status">
        <div class="grow">Copying {{ done }} of {{ total }} {{ total === 1 ? 'file' : 'files' }}
          <div class="bar"><div :style="{width: 100 * done / total + '%'}"></div></div></div>
        <button type="button" class="linklike" @click="stop">Stop</button>
      </div>
      <input ref="files" type="file" multiple hidden @change="picked">
      <input ref="folder" type="file" webkitdirectory hidden @change="picked">
    </div>`,
  props: { words: String, hint: String, largest: Number, most: Number },
  data: () => ({ over: false, total: 0, done: 0, stopped: false }),
  created() {
    const files = (event) => [...event.dataTransfer.types].includes('Files');
    this.listeners = {
      dragover: (event) => { if (files(event)) this.over = true; },
      dragleave: (event) => { if (!event.relatedTarget) this.over = false; },  // out of the window
      drop: (event) => { if (files(event)) this.dropped(event); },
    };
  },
  mounted() { for (const [name, act] of Object.entries(this.listeners)) window.addEventListener(name, act); },
  beforeUnmount() { for (const [name, act] of Object.entries(this.listeners)) window.removeEventListener(name, act); },
  methods: {
    async dropped(event) {
      this.over = false;
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const files = entries.length ? [] : [...event.dataTransfer.files];
      try {
        for (const entry of entries) await this.collect(entry, files);
      } catch (error) {
        return this.$emit('refused', `That cannot be read: ${error.message || error}`);
      }
      this.send(files);
    },
    async collect(entry, files) {
      if (entry.isFile) files.push(await new Promise((ok, bad) => entry.file(ok, bad)));
      if (!entry.isDirectory) return;
      const reader = entry.createReader();
      for (;;) {  // a reader gives a hundred at a time
        const some = await new Promise((ok, bad) => reader.readEntries(ok, bad));
        if (!some.length) return;
        for (const inner of some) await this.collect(inner, files);
      }
    },
    picked(event) {
      const files = [...event.target.files];
      event.target.value = '';
      this.send(files);
    },
    stop() {
      this.stopped = true;
      this.sending.abort();
    },
    async send(files) {
      files = files.filter((file) => !file.name.startsWith('.'));
      if (this.total) return;
      if (!files.length) return this.$emit('refused', 'There is no file in it.');
      if (files.length > this.most || files.reduce((sum, file) => sum + file.size, 0) > this.largest)
        return this.$emit('refused', 'That is more than this page takes. Choose the folder on this computer instead.');
      Object.assign(this, { total: files.length, done: 0, stopped: false });
      this.sending = new AbortController();
      const refuse = (error) => this.$emit('refused', String(error.message || error));
      try {
        const drop = (await this.post('/drop')).drop;
        const waiting = [...files];
        const one = async () => {
          while (waiting.length && !this.stopped) {
            const file = waiting.shift();
            await this.post(`/drop/${drop}?name=${encodeURIComponent(file.name)}`, file);
            this.done += 1;
          }
        };
        const failed = (error) => {  // the first error ends the others, whose errors are then its doing
          if (this.stopped) return;
          this.stop();
          refuse(error);
        };
        await Promise.all([one(), one(), one(), one()].map((sent) => sent.catch(failed)));
        this.$emit(this.stopped ? 'abandoned' : 'dropped', drop);
      } catch (error) {
        refuse(error);
      } finally {
        this.total = 0;
      }
    },
    async post(url, body) {
      const answer = await fetch(url, { method: 'POST', body, signal: this.sending.signal });
      if (!answer.ok) throw new Error(await answer.text());
      return answer.json();
    },
  },
};
