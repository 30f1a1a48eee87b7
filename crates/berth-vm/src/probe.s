# The guest of `probe.rs`. An ELF with a PVH note loads it at 0x100000: 32-bit protected mode, flat, no paging.
.code32
.globl start
start:
  cli
  # page tables at 0x200000: one gigabyte, 2 MiB pages
  mov $0x200000, %edi
  mov %edi, %cr3
  movl $0x201003, (%edi)
  movl $0x202003, 0x1000(%edi)
  movl $0x83, 0x2000(%edi)
  movl $0x200083, 0x2008(%edi)
  mov %cr4, %eax
  or $0x20, %eax
  mov %eax, %cr4
  mov $0xc0000080, %ecx
  rdmsr
  or $0x100, %eax
  wrmsr
  mov %cr0, %eax
  or $0x80000001, %eax
  mov %eax, %cr0
  lgdt gdtr
  ljmp $8, $long
.code64
long:
  # 16 bytes compared and exchanged
  xor %eax, %eax
  xor %edx, %edx
  mov $7, %ebx
  mov $9, %ecx
  lock cmpxchg16b place(%rip)
  jnz bad
  cmpq $9, place+8(%rip)
  jnz bad
  # a VEX instruction where there is one
  xor %eax, %eax
  cpuid
  cmp $7, %eax
  jb loop_
  mov $7, %eax
  xor %ecx, %ecx
  cpuid
  bt $8, %ebx
  jnc loop_
  mov $1, %eax
  mov $4, %ecx
  shlx %ecx, %eax, %eax
  cmp $16, %eax
  jnz bad
loop_:
  mov $20000000, %ecx
1: dec %ecx
  jnz 1b
  mov $0x10, %al
  jmp out
bad:
  mov $0x20, %al
out:
  mov $0xf4, %dx
  out %al, %dx
2: hlt
  jmp 2b
.balign 16
place: .quad 0, 0
gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr: .word 23
 .long gdt
