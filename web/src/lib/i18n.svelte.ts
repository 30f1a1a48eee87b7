// English texts are their own keys; other languages are dictionaries loaded when chosen.

export type Language = 'en' | 'zh';

class Speech {
  language = $state<Language>('en');
  #words = $state.raw<Record<string, string>>({});

  constructor() {
    const saved = localStorage.getItem('berth.language');
    const wanted = saved ?? (navigator.language.startsWith('zh') ? 'zh' : 'en');
    if (wanted === 'zh') void this.use('zh');
  }

  async use(language: Language): Promise<void> {
    this.#words = language === 'zh' ? (await import('./zh')).zh : {};
    this.language = language;
    document.documentElement.lang = language;
    localStorage.setItem('berth.language', language);
  }

  say(text: string, values?: Record<string, string | number>): string {
    let said = this.#words[text] ?? text;
    for (const [name, value] of Object.entries(values ?? {})) said = said.replaceAll(`{${name}}`, String(value));
    return said;
  }
}

export const speech = new Speech();
export const t = (text: string, values?: Record<string, string | number>): string => speech.say(text, values);
