// Dark or light: as chosen here, else as the system has it.

class Theme {
  now = $state<'dark' | 'light'>('dark');

  constructor() {
    const saved = localStorage.getItem('berth.theme');
    const light = window.matchMedia('(prefers-color-scheme: light)').matches;
    this.use(saved === 'light' || saved === 'dark' ? saved : light ? 'light' : 'dark');
  }

  use(theme: 'dark' | 'light'): void {
    this.now = theme;
    document.documentElement.dataset.theme = theme;
  }

  toggle(): void {
    this.use(this.now === 'dark' ? 'light' : 'dark');
    localStorage.setItem('berth.theme', this.now);
  }
}

export const theme = new Theme();
